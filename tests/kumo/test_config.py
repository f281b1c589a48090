"""Configuration files: what is wrong is named, with the path to it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from kumo.config import load, parse
from kumo.errors import InvalidArgument


@dataclass(frozen=True)
class Listener:
    address: str
    port: int = 7400


@dataclass(frozen=True)
class Example:
    state: Path
    listener: Listener
    peers: tuple[Listener, ...] = ()
    metrics: Listener | None = None


def test_a_file_becomes_the_dataclass() -> None:
    text = 'state = "/var/lib/kumo"\n[listener]\naddress = "::1"\n[[peers]]\naddress = "a"\nport = 1\n[metrics]\naddress = "m"\n'
    wanted = Example(Path("/var/lib/kumo"), Listener("::1"), (Listener("a", 1),), Listener("m"))
    assert parse(text, Example) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('state = "x"\n', "listener"),
        ('state = "x"\n[listener]\naddress = "a"\nport = "7"\n', r"\$.listener.port"),
        ('state = "x"\nbogus = 1\n[listener]\naddress = "a"\n', "unknown key bogus"),
        ('state = "x"\n[listener]\naddress = "a"\nbogus = 1\n', "unknown key listener.bogus"),
        ('state = "x"\n[listener]\naddress = "a"\n[metrics]\naddress = "a"\nbogus = 1\n', "unknown key metrics.bogus"),
        ('state = "x"\n[listener]\naddress = "a"\n[[peers]]\naddress = "a"\nbogus = 1\n', "unknown key peers.0.bogus"),
        ("state = \n", "Invalid value"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=says) as caught:
        load(file, Example)
    assert str(file) in caught.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.toml"):
        load(tmp_path / "config.toml", Example)
