"""Volumes in a directory: full-size sparse raw files, made blank or as copies of images, found, listed, marked and set aside.

Everything here blocks. A volume is there, with its facts, or it is not: none is ever half made under its name.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kumo.errors import NotFound
from storage.directory.copying import Copy, copy
from storage.directory.images import find_image, image_disk
from storage.directory.locks import alone
from storage.directory.place import DISK, Place, begin, facts_of, publish, replace, set_aside, sync
from storage.mark import Mark, mark_of, successor, text_of
from storage.volume import Volume, no_image, too_small

_OWNER = "owner"


@dataclass(frozen=True)
class Wanted:
    """A volume as it shall be made, by an attempt of that name. `image_uid` empty: blank."""

    uid: str
    size_bytes: int
    generation: int
    image_uid: str
    attempt: str
    stop: threading.Event


def volume_disk(place: Place, uid: str) -> Path:
    return place.volumes / uid / DISK


def ensure_volume(place: Place, wanted: Wanted) -> Volume:
    """Make a volume, or find it made. Raises NotFound IMAGE_NOT_FOUND, FailedPrecondition VOLUME_TOO_SMALL, Cancelled, POOL_FULL."""
    if (found := find_volume(place, wanted.uid)) is not None:
        return found
    folder = begin(place, wanted.attempt)
    try:
        if wanted.image_uid:
            _clone(place, wanted, folder / DISK)
        else:
            place.require_room(0, f"making volume {wanted.uid}")
            with (folder / DISK).open("xb") as file:
                file.truncate(wanted.size_bytes)
                os.fsync(file.fileno())
        (folder / DISK).chmod(0o600)
        made = publish(folder, place.volumes / wanted.uid, {"generation": max(1, wanted.generation), "image_uid": wanted.image_uid})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not made:
        shutil.rmtree(folder)
    found = find_volume(place, wanted.uid)
    if found is None:
        raise NotFound("VOLUME_NOT_FOUND", f"volume {wanted.uid} was deleted while it was made", uid=wanted.uid)
    return found


def _clone(place: Place, wanted: Wanted, target: Path) -> None:
    image = find_image(place, wanted.image_uid)
    if image is None:
        raise no_image(wanted.image_uid)
    if image.size_bytes > wanted.size_bytes:
        raise too_small(wanted.uid, wanted.size_bytes, wanted.image_uid, image.size_bytes)
    try:
        copy(place, Copy(image_disk(place, wanted.image_uid), target, wanted.size_bytes, lambda _: None, wanted.stop))
    except FileNotFoundError as error:
        raise NotFound("IMAGE_NOT_FOUND", f"image {wanted.image_uid} went away", image_uid=wanted.image_uid) from error


def find_volume(place: Place, uid: str) -> Volume | None:
    facts = facts_of(place.volumes / uid)
    if facts is None:
        return None
    try:
        size_bytes = volume_disk(place, uid).stat().st_size
    except FileNotFoundError:
        return None  # set aside since
    return Volume(uid, size_bytes, int(facts["generation"]))


def list_volumes(place: Place) -> list[Volume]:
    """Return the volumes of the pool by uid."""
    uids = sorted(folder.name for folder in place.volumes.iterdir())
    return [volume for uid in uids if (volume := find_volume(place, uid)) is not None]


def delete_volume(place: Place, uid: str) -> None:
    """Set a volume aside with its mark, or find it gone. Raises FailedPrecondition VOLUME_IN_USE while a QEMU has it open."""
    try:
        with alone(volume_disk(place, uid), uid):
            set_aside(place, place.volumes / uid)
    except FileNotFoundError:
        return


def read_mark(place: Place, uid: str) -> Mark | None:
    """Return whose a volume is, None if it has no mark or is gone. Raises Unavailable if that cannot be read."""
    try:
        return mark_of((place.volumes / uid / _OWNER).read_text())
    except FileNotFoundError:
        return None


def change_mark(place: Place, uid: str, expected: Mark, wanted: Mark) -> Mark:
    """Make the mark say `wanted` if it says `expected`, and return what it says then. Saying so already is success.

    Raises FailedPrecondition OWNER_CHANGED, and NotFound if there is no such volume.
    """
    with _only_one(place, uid):
        held = read_mark(place, uid) or Mark()
        after = successor(held, expected, wanted)
        if after != held:
            replace(place.volumes / uid / _OWNER, text_of(after).encode())
        else:
            sync(place.volumes / uid)  # whoever wrote it may have been killed before it was on the disk
    return after


@contextmanager
def _only_one(place: Place, uid: str) -> Iterator[None]:
    """Be the only one, of all threads and processes of the host, that compares and changes the mark of a volume."""
    missing = NotFound("VOLUME_NOT_FOUND", f"there is no volume {uid} in this pool", uid=uid)
    folder = place.volumes / uid
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise missing from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not folder.exists():
            raise missing
        yield
    finally:
        os.close(descriptor)
