"""Which etcd is found, and what is taken for good."""

import hashlib
from pathlib import Path

import pytest

from deploy import etcd_binary
from deploy.etcd_binary import Etcd


def write_etcd(cache: Path, suite: str, version: str) -> Path:
    path = cache / "etcd" / suite / "usr" / "bin" / "etcd"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho etcd Version: {version}\n")
    path.chmod(0o755)
    return path


def test_setup_has_brought_a_good_one() -> None:
    found = etcd_binary.find()
    assert found is not None
    assert found.is_good


def test_the_newest_of_what_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    write_etcd(tmp_path, "bookworm", "3.4.23")
    newest = write_etcd(tmp_path, "unstable", "3.5.30")
    write_etcd(tmp_path, "trixie", "3.5.16")
    assert etcd_binary.find(tmp_path) == Etcd(newest, (3, 5, 30))


@pytest.mark.parametrize(("version", "good"), [((3, 4, 45), False), ((3, 5, 27), False), ((3, 5, 28), True), ((3, 6, 0), True)])
def test_good_begins_at_3_5_28(version: tuple[int, ...], good: bool) -> None:
    assert Etcd(Path("etcd"), version).is_good is good


def test_what_does_not_run_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    path = write_etcd(tmp_path, "unstable", "3.5.30")
    path.write_text("not a program")
    assert etcd_binary.find(tmp_path) is None


def test_the_pin_is_a_whole_digest() -> None:
    assert len(bytes.fromhex(etcd_binary.GOOD.sha256)) == hashlib.sha256().digest_size


def test_a_package_with_another_digest_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(suite: str, version: str, folder: Path) -> Path:
        (folder / "etcd-server_x.deb").write_bytes(b"something else")
        return folder / "etcd-server_x.deb"

    monkeypatch.setattr(etcd_binary, "_download", download)
    monkeypatch.setattr(etcd_binary, "OLD", ())
    with pytest.raises(OSError, match="another digest"):
        etcd_binary.fetch(tmp_path)
    assert not (tmp_path / "etcd").exists()
