"""Who has a disk open: by the locks that QEMU takes on bytes of the file, which the kernel frees with the process. Everything here blocks.

QEMU (block/file-posix.c) locks byte 100 + n for what it does to the file, n = 1 being to write, and byte 200 + n for what it suffers
nobody else to do. The kernel does not say whose such a lock is: its owner is called by the file.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kumo.errors import FailedPrecondition

_LOCK = struct.Struct("hhxxxxqqixxxx")
_WRITES = 101
_FIRST, _COUNT = 100, 200


def client_of(disk: Path) -> str | None:
    """Return what has the disk open for writing, None if nothing has or there is no such disk."""
    try:
        descriptor = os.open(disk, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _name(descriptor) if _is_locked(descriptor, _WRITES, 1) else None
    finally:
        os.close(descriptor)


@contextmanager
def alone(disk: Path, uid: str) -> Iterator[None]:
    """Have a disk to oneself, which no QEMU can open meanwhile. Raises FailedPrecondition VOLUME_IN_USE, FileNotFoundError."""
    descriptor = os.open(disk, os.O_RDWR)
    try:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _FIRST, _COUNT, 0))
        except (BlockingIOError, PermissionError) as error:
            client = _name(descriptor)
            raise FailedPrecondition(
                "VOLUME_IN_USE", f"volume {uid} is open by {client}", fix="stop what uses it", uid=uid, clients=client
            ) from error
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _is_locked(descriptor: int, first: int, count: int) -> bool:
    asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
    found: tuple[int, ...] = _LOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
    return found[0] != fcntl.F_UNLCK


def _name(descriptor: int) -> str:
    found = os.fstat(descriptor)
    return f"local/{found.st_dev:x}.{found.st_ino}"
