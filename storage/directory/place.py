"""Where the things of one pool lie in a directory, and how each comes and goes: whole or not at all, whenever the power fails.

A volume or an image is a folder. It is made under a name of the attempt's own, and given its own name once everything in it is on the
disk; to go, it is moved aside, and freed later. Everything here blocks.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kumo.errors import Unavailable
from storage.directory.failures import full

FORMAT = 1
DISK = "disk"
_FACTS = "facts.json"
# QEMU's user goes through, and lists nothing.
_FOLDER_MODE = 0o711


@dataclass(frozen=True)
class Place:
    """The folder of one pool. What is below `reserve_bytes` of free room is for what is there already."""

    root: Path
    reserve_bytes: int

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def making(self) -> Path:
        return self.root / "making"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    def room_bytes(self) -> int:
        """Return what may still be written. A quota on the directory counts, where its file system tells of it."""
        found = os.statvfs(self.root)
        return max(0, found.f_bavail * found.f_frsize - self.reserve_bytes)

    def require_room(self, needed_bytes: int, what: str) -> None:
        """Raises ResourceExhausted POOL_FULL."""
        if self.room_bytes() < max(1, needed_bytes):
            raise full(what)

    def used_bytes(self) -> int:
        """Return what the pool's files take; what several of them share counts for each."""
        used = 0
        for folder in (self.volumes, self.images, self.making, self.trash):
            for below, _, names in os.walk(folder):
                for name in names:
                    try:
                        used += os.lstat(os.path.join(below, name)).st_blocks * 512
                    except FileNotFoundError:
                        continue  # it was freed meanwhile
        return used


def open_place(directory: Path, pool_uid: str, reserve_bytes: int) -> Place:
    """Return the place of a pool, made if it is new.

    The directory itself is never made: where it should be and is not, a disk is not mounted. Raises Unavailable POOL_MISSING.
    """
    if not directory.is_dir():
        raise Unavailable(
            "POOL_MISSING",
            f"there is no directory {directory} on this host",
            fix="mount the disk that it lies on",
            directory=str(directory),
        )
    place = Place(directory / pool_uid, reserve_bytes)
    for folder in (place.root, place.volumes, place.images, place.making, place.trash):
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            folder.chmod(_FOLDER_MODE)
            sync(folder.parent)
    return place


def begin(place: Place, name: str) -> Path:
    """Return a new folder to make a thing in."""
    folder = place.making / name
    folder.mkdir()
    folder.chmod(_FOLDER_MODE)
    return folder


def attempt_at(uid: str) -> str:
    """Return a name for one attempt at making a thing."""
    return f"{uid}.{secrets.token_hex(4)}"


def publish(made: Path, target: Path, facts: dict[str, Any]) -> bool:
    """Write `facts` beside what was made, and give it its name for good. False if another has it already: an attempt that was faster."""
    replace(made / _FACTS, json.dumps({"format": FORMAT, **facts}).encode())
    sync(made)
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise
        return False
    sync(target.parent)
    return True


def facts_of(folder: Path) -> dict[str, Any] | None:
    """Return what was written of a thing, None if it is not there. Raises Unavailable if it cannot be read, or a newer Kumo wrote it."""
    try:
        text = (folder / _FACTS).read_text()
    except FileNotFoundError:
        return None
    try:
        found: dict[str, Any] = json.loads(text)
        known = int(found["format"]) <= FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable("FACTS_UNREADABLE", f"what is written in {folder / _FACTS} cannot be read") from error
    if not known:
        raise Unavailable("FACTS_NEWER", f"{folder} was written in format {found['format']}", fix="use the newer Kumo on this host")
    return found


def set_aside(place: Place, folder: Path) -> None:
    """Take its name from a thing, or find it gone."""
    try:
        folder.rename(place.trash / attempt_at(folder.name))
    except FileNotFoundError:
        return
    sync(folder.parent)


def free(place: Place, is_under_way: Callable[[str], bool]) -> None:
    """Free what was set aside, and what attempts left that are not under way. An attempt is under way before it has its folder."""
    for folder in [*place.trash.iterdir(), *place.making.iterdir()]:
        if folder.parent == place.making and is_under_way(folder.name):
            continue
        with suppress(FileNotFoundError):  # an attempt that came to its end since
            shutil.rmtree(folder)


def replace(path: Path, content: bytes) -> None:
    """Have `path` hold `content`, all of it or, after a crash, what it held before."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
