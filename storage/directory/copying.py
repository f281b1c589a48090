"""Copies the file of a disk: by sharing its blocks where the file system can, else what is not zeros in it. Everything here blocks."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage.directory.place import Place
from storage.image import Cancelled
from storage.sparse import is_zeros, next_data

_FICLONE = 0x40049409
_NO_SHARING = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY)
_PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class Copy:
    """One copy of `source`, cut or filled up with zeros to `size_bytes`. `progress` is told bytes passed, from the thread that works."""

    source: Path
    target: Path
    size_bytes: int
    progress: Callable[[int], None]
    stop: threading.Event


def copy(place: Place, job: Copy) -> None:
    """Return when all of it is on the disk. Raises Cancelled, or ResourceExhausted POOL_FULL before anything is written."""
    with job.source.open("rb") as source, job.target.open("xb") as target:
        if not _shares(source.fileno(), target.fileno()):
            place.require_room(os.fstat(source.fileno()).st_blocks * 512, f"copying {job.source.name}")
            _write(source.fileno(), target.fileno(), job)
        target.truncate(job.size_bytes)
        job.progress(job.size_bytes)
        os.fsync(target.fileno())


def _shares(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _NO_SHARING:
            raise
        return False
    return True


def _write(source: int, target: int, job: Copy) -> None:
    size_bytes = min(os.fstat(source).st_size, job.size_bytes)
    offset = 0
    while (offset := next_data(source, offset)) < size_bytes:
        if job.stop.is_set():
            raise Cancelled
        end = min(os.lseek(source, offset, os.SEEK_HOLE), size_bytes)
        data = os.pread(source, min(_PIECE_BYTES, end - offset), offset)
        if not data:
            break
        if not is_zeros(data):
            _write_all(target, data, offset)
        offset += len(data)
        job.progress(offset)


def _write_all(target: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(target, left, offset)
        left, offset = left[written:], offset + written
