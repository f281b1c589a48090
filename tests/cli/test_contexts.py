"""Which cloud a command talks to: flags before variables before the file; what is wrong in the file is named."""

from pathlib import Path

import pytest

from cli.contexts import Context, Contexts, choose, load, save
from cli.failure import Failure


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KUMO_CONTEXT", "KUMO_ADDRESS", "KUMO_CA", "KUMO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "kumo" / "config.yaml"
    monkeypatch.setenv("KUMO_CONFIG", str(file))
    return file


def two(file: Path) -> None:
    known = {name: Context(name, f"{name}:7400", Path("/ca.pem"), "", "default") for name in ("one", "two")}
    save(Contexts(file, "one", known))


def test_what_was_saved_is_loaded(config: Path) -> None:
    two(config)
    assert load() == load(config)
    assert choose(None, None).name == "one"
    assert config.stat().st_mode & 0o777 == 0o600


def test_a_flag_beats_a_variable_and_a_variable_beats_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two(config)
    monkeypatch.setenv("KUMO_CONTEXT", "two")
    monkeypatch.setenv("KUMO_PROJECT", "blue")
    assert choose(None, None) == Context("two", "two:7400", Path("/ca.pem"), "", "blue")
    assert choose("one", "green") == Context("one", "one:7400", Path("/ca.pem"), "", "green")


def test_variables_alone_are_enough(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUMO_ADDRESS", "10.0.0.1:7400")
    monkeypatch.setenv("KUMO_CA", "/x.pem")
    assert choose(None, None).address == "10.0.0.1:7400"


@pytest.mark.parametrize(
    ("text", "named"),
    [("contexts: {a: {address: x}}", '"a"'), ("contexts: {a: {address: x, ca: y, tokn: z}}", "tokn"), ("contexts: [", "config.yaml")],
)
def test_what_is_wrong_in_the_file_is_named(config: Path, text: str, named: str) -> None:
    config.parent.mkdir(parents=True)
    config.write_text(text)
    with pytest.raises(Failure) as failure:
        load()
    assert named in failure.value.text()


def test_an_unknown_context_lists_the_known_ones(config: Path) -> None:
    two(config)
    with pytest.raises(Failure) as failure:
        choose("three", None)
    assert "one, two" in failure.value.because
