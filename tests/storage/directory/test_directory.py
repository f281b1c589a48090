"""A pool in a directory on a small disk: what is full says so and loses nothing, what is not mounted is not made, copies can be stopped."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kumo.errors import ResourceExhausted, Unavailable
from storage.directory import images, volumes
from storage.directory.copying import Copy, copy
from storage.directory.failures import translated
from storage.directory.place import Place, attempt_at, facts_of, free, open_place
from storage.image import Cancelled, Image, Import
from storage.mark import Mark

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"x" * (6 * MIB))
    return path


def import_image(place: Place, path: Path, uid: str) -> None:
    size_bytes = path.stat().st_size
    image = Image(uid, "0" * 64, size_bytes, size_bytes)
    images.import_image(place, Import(image, path, attempt_at(uid), lambda _: None, threading.Event()))


def wanted(uid: str, image_uid: str = "") -> volumes.Wanted:
    return volumes.Wanted(uid, 64 * MIB, 1, image_uid, attempt_at(uid), threading.Event())


def test_what_does_not_fit_is_refused_before_it_is_written_and_what_is_there_stays(disk: Path, source: Path) -> None:
    place = open_place(disk, "pool", 2 * MIB)
    import_image(place, source, "i")
    volumes.ensure_volume(place, wanted("v", "i"))
    for refused in (lambda: volumes.ensure_volume(place, wanted("w", "i")), lambda: import_image(place, source, "j")):
        with pytest.raises(ResourceExhausted, match="POOL_FULL"):
            refused()
    assert not list(place.making.iterdir())
    assert [volume.uid for volume in volumes.list_volumes(place)] == ["v"]
    volumes.delete_volume(place, "v")
    free(place, lambda _: False)
    volumes.ensure_volume(place, wanted("w", "i"))


def test_on_a_disk_without_a_byte_free_marks_keep_what_they_say_and_things_go(disk: Path, source: Path) -> None:
    place = open_place(disk, "pool", 0)
    volumes.ensure_volume(place, wanted("v"))
    me = Mark("s1", "h1", 1, 1)
    volumes.change_mark(place, "v", Mark(), me)
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(ResourceExhausted, match="POOL_FULL"), translated("changing the mark"):
        volumes.change_mark(place, "v", me, Mark("s2", "h1", 1, 2))
    with pytest.raises(ResourceExhausted, match="POOL_FULL"), translated("making a volume"):
        volumes.ensure_volume(place, wanted("w"))
    assert volumes.read_mark(place, "v") == me
    volumes.delete_volume(place, "v")
    assert volumes.list_volumes(place) == []
    ballast.unlink()
    volumes.ensure_volume(place, wanted("w"))


def test_room_that_is_kept_back_is_there_for_marks(disk: Path) -> None:
    place = open_place(disk, "pool", 0)
    volumes.ensure_volume(place, wanted("v"))
    careful = open_place(disk, "pool", 15 * MIB + MIB // 2)
    (disk / "ballast").write_bytes(bytes(MIB))
    with pytest.raises(ResourceExhausted, match="POOL_FULL"):
        volumes.ensure_volume(careful, wanted("w"))
    assert volumes.change_mark(careful, "v", Mark(), Mark("s1", "h1", 1, 1)).server_uid == "s1"


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="POOL_MISSING"):
        open_place(tmp_path / "not-mounted", "pool", 0)
    assert not (tmp_path / "not-mounted").exists()


def test_a_copy_leaves_holes_holes_and_can_be_stopped(tmp_path: Path) -> None:
    place = open_place(tmp_path, "pool", 0)
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(b"begin")
        file.seek(32 * MIB)
        file.write(bytes(4 * MIB))
        file.write(b"end")
    stop = threading.Event()
    copy(place, Copy(source, tmp_path / "whole", 64 * MIB, lambda _: None, stop))
    made = tmp_path / "whole"
    assert made.stat().st_size == 64 * MIB
    assert made.read_bytes() == source.read_bytes() + bytes(64 * MIB - source.stat().st_size)
    assert made.stat().st_blocks * 512 <= MIB, "what is zeros takes no room"
    with pytest.raises(Cancelled):
        copy(place, Copy(source, tmp_path / "half", 64 * MIB, lambda _: stop.set(), stop))


def test_what_a_newer_kumo_wrote_is_refused_and_what_is_broken_is_not_taken_for_absent(tmp_path: Path) -> None:
    place = open_place(tmp_path, "pool", 0)
    volumes.ensure_volume(place, wanted("v"))
    facts = place.volumes / "v" / "facts.json"
    known = json.loads(facts.read_text())
    facts.write_text(json.dumps({**known, "format": 2}))
    with pytest.raises(Unavailable, match="FACTS_NEWER"):
        volumes.find_volume(place, "v")
    facts.write_text("{")
    with pytest.raises(Unavailable, match="FACTS_UNREADABLE"):
        volumes.list_volumes(place)
    assert facts_of(place.volumes / "none") is None


def test_what_is_under_way_is_not_swept(tmp_path: Path) -> None:
    place = open_place(tmp_path, "pool", 0)
    for name in ("dead.1", "live.1"):
        (place.making / name).mkdir()
        (place.making / name / "disk").write_bytes(b"half")
    free(place, lambda name: name == "live.1")
    assert [path.name for path in place.making.iterdir()] == ["live.1"]
