"""Images in RBD: what volumes are cloned from. An image is written under a name of the attempt's own and given its name, with its
snapshot already made, as the last step: what has the name is whole. Everything here blocks.
"""

import os
import threading
from typing import Any

import rbd

from kumo.errors import Unavailable
from storage.block.names import SNAPSHOT, importing_name, importing_uid
from storage.block.renames import finish_rename, is_listed
from storage.block.volumes import move_to_trash, watchers_of
from storage.image import Cancelled, Image, Import
from storage.sparse import is_zeros, next_data

BLOCK_BYTES = 4 << 20
_IN_FLIGHT = 8
_SHA256 = "kumo.sha256"
_FILE_BYTES = "kumo.file_bytes"


def find_image(images: Any, uid: str) -> Image | None:
    if not is_listed(images, uid):
        return None
    try:
        with rbd.Image(images, uid, snapshot=SNAPSHOT, read_only=True) as image:
            metadata = dict(image.metadata_list())
            return Image(uid, metadata.get(_SHA256, ""), int(metadata.get(_FILE_BYTES, 0)), image.size())
    except rbd.ImageNotFound:
        return None


def import_image(images: Any, job: Import) -> None:
    """Write the file's bytes as an image, or find it written. Raises Cancelled, leaving what remove_leftovers() takes away."""
    uid = job.image.uid
    finish_rename(images, uid)
    if find_image(images, uid) is not None:
        return
    name = importing_name(uid, job.attempt)
    # Without the exclusive lock: a writer that is killed leaves none that this host could not break.
    rbd.RBD().create(images, name, job.image.size_bytes, old_format=False, features=rbd.RBD_FEATURE_LAYERING)
    with rbd.Image(images, name) as image:
        _Writer(image, job).run()
        image.metadata_set(_SHA256, job.image.sha256)
        image.metadata_set(_FILE_BYTES, str(job.image.file_bytes))
        image.create_snap(SNAPSHOT)
    if job.stop.is_set():
        raise Cancelled
    try:
        rbd.RBD().rename(images, name, uid)
    except rbd.ImageExists:
        move_to_trash(images, name)  # another attempt was faster


class _Writer:
    """Writes the data of a sparse file, some blocks at a time; holes and blocks of zeros are passed over."""

    def __init__(self, image: Any, job: Import) -> None:
        self._image = image
        self._job = job
        self._room = threading.Semaphore(_IN_FLIGHT)
        self._error = 0

    def run(self) -> None:
        descriptor = os.open(self._job.path, os.O_RDONLY)
        try:
            size_bytes = min(os.fstat(descriptor).st_size, self._job.image.size_bytes)
            offset = 0
            while (offset := next_data(descriptor, offset)) < size_bytes:
                self._check()
                end = min(size_bytes, (offset // BLOCK_BYTES + 1) * BLOCK_BYTES)
                self._write(os.pread(descriptor, end - offset, offset), offset)
                offset = end
                self._job.progress(offset)
        finally:
            os.close(descriptor)
            for _ in range(_IN_FLIGHT):
                self._room.acquire()
        self._check()
        self._image.flush()

    def _write(self, data: bytes, offset: int) -> None:
        if is_zeros(data):
            return
        self._room.acquire()
        self._image.aio_write(data, offset, self._written)

    def _written(self, completion: Any) -> None:
        # librbd's thread: only note it.
        if (code := completion.get_return_value()) < 0:
            self._error = code
        self._room.release()

    def _check(self) -> None:
        if self._job.stop.is_set():
            raise Cancelled
        if self._error:
            raise Unavailable(
                "IMAGE_WRITE_FAILED", f"writing image {self._job.image.uid}: {os.strerror(-self._error)}", uid=self._job.image.uid
            )


def delete_image(images: Any, uid: str) -> None:
    """Hide an image; clones of it live on. What attempts to write it left, remove_leftovers() takes away."""
    finish_rename(images, uid)
    move_to_trash(images, uid)


def has_leftovers(images: Any, under_way: frozenset[str]) -> bool:
    return any(importing_uid(name) is not None and name not in under_way for name in rbd.RBD().list(images))


def remove_leftovers(images: Any, under_way: frozenset[str]) -> None:
    """Hide what dead attempts left: half written images that no client has open and that none of the attempts `under_way` writes."""
    for name in rbd.RBD().list(images):
        if importing_uid(name) is None or name in under_way:
            continue
        try:
            if not watchers_of(images, name):
                move_to_trash(images, name)
        except rbd.ImageNotFound:
            pass
