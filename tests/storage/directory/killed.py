"""Has a child work on a pool in a directory and be killed at its first step, its second, and so on until it comes to its end.

usage: python -m tests.storage.directory.killed DIRECTORY

A step is whatever the interpreter tells its audit hooks of: files opened, renamed, locked, removed. Ends with a traceback where a kill
left what is neither the old nor the new, or what the next attempt and the sweep do not put right.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kumo.ids import new_uid
from storage.directory import images, volumes
from storage.directory.place import DISK, Place, attempt_at, free, open_place
from storage.image import Image, Import
from storage.mark import Mark

CONTENT = b"boot" * (1 << 16)
SIZE_BYTES = 1 << 20
OLD, NEW = Mark("s1", "h1", 1, 1), Mark("s1", "h2", 1, 2)
_STEPS = ("open", "os.", "fcntl.", "shutil.")


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do `work` in a child that is killed at that step; False if it came to its end before."""
    child = os.fork()
    if not child:
        left = step

        def count(event: str, _arguments: Any) -> None:
            nonlocal left
            if event.startswith(_STEPS) and not event.startswith("os.kill"):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


def at_every_step(work: Callable[[], object], check: Callable[[], None]) -> int:
    """Kill `work` at each step in turn, and `check` each time; return how many steps there were."""
    step = 1
    while killed_at(step, work):
        check()
        step += 1
    check()
    return step


def make(place: Place, uid: str, image_uid: str) -> None:
    volumes.ensure_volume(place, volumes.Wanted(uid, SIZE_BYTES, 1, image_uid, attempt_at(uid), threading.Event()))


def is_whole(disk: Path) -> bool:
    return disk.stat().st_size == SIZE_BYTES and disk.read_bytes().rstrip(b"\0") == CONTENT


def remains(place: Place) -> list[str]:
    """Return what the sweep leaves of attempts and of what was set aside."""
    free(place, lambda _attempt: False)
    return [path.name for folder in (place.making, place.trash) for path in folder.iterdir()]


def clones(place: Place, image_uid: str) -> int:
    uid = new_uid()

    def check() -> None:
        assert volumes.find_volume(place, uid) is None or is_whole(volumes.volume_disk(place, uid))
        make(place, uid, image_uid)
        assert is_whole(volumes.volume_disk(place, uid))
        volumes.delete_volume(place, uid)
        assert remains(place) == []

    return at_every_step(lambda: make(place, uid, image_uid), check)


def imports(place: Place, raw: Path) -> int:
    uid = new_uid()

    def work() -> None:
        image = Image(uid, "0" * 64, len(CONTENT), SIZE_BYTES)
        images.import_image(place, Import(image, raw, attempt_at(uid), lambda _: None, threading.Event()))

    def check() -> None:
        assert images.find_image(place, uid) is None or is_whole(images.image_disk(place, uid))
        work()
        assert is_whole(place.images / uid / DISK)
        images.delete_image(place, uid)
        assert remains(place) == []

    return at_every_step(work, check)


def marks(place: Place, image_uid: str) -> int:
    uid = new_uid()
    make(place, uid, image_uid)
    volumes.change_mark(place, uid, Mark(), OLD)

    def check() -> None:
        assert volumes.read_mark(place, uid) in (OLD, NEW)
        assert volumes.change_mark(place, uid, OLD, NEW) == NEW
        volumes.delete_volume(place, uid)
        assert remains(place) == []
        make(place, uid, image_uid)
        volumes.change_mark(place, uid, Mark(), OLD)

    return at_every_step(lambda: volumes.change_mark(place, uid, OLD, NEW), check)


def deletes(place: Place, image_uid: str) -> int:
    uid = new_uid()
    make(place, uid, image_uid)

    def work() -> None:
        volumes.delete_volume(place, uid)
        free(place, lambda _attempt: False)

    def check() -> None:
        assert volumes.find_volume(place, uid) is None or is_whole(volumes.volume_disk(place, uid))
        volumes.delete_volume(place, uid)
        assert uid not in {volume.uid for volume in volumes.list_volumes(place)}
        assert remains(place) == []
        make(place, uid, image_uid)

    return at_every_step(work, check)


def main(directory: Path) -> None:
    raw = directory / "raw"
    raw.write_bytes(CONTENT)
    place = open_place(directory, new_uid(), 0)
    print("imports", imports(place, raw))
    image = Image(new_uid(), "0" * 64, len(CONTENT), SIZE_BYTES)
    images.import_image(place, Import(image, raw, attempt_at(image.uid), lambda _: None, threading.Event()))
    for work in (clones, marks, deletes):
        print(work.__name__, work(place, image.uid))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
