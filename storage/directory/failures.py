"""Decides what an error of a file system means to a caller."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from kumo.errors import Error, FailedPrecondition, ResourceExhausted, Unavailable


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what the file system raises inside the block as an Error; `what` says in the message what was tried."""
    try:
        yield
    except OSError as error:
        raise translate(error, what) from error


def translate(error: OSError, what: str) -> Error:
    said = errno.errorcode.get(error.errno or 0, type(error).__name__)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return full(what)
        case errno.EFBIG:
            return FailedPrecondition(
                "VOLUME_TOO_LARGE", f"{what}: the file system has no files of that size", fix="ask for less", errno=said
            )
        case _:
            return Unavailable(
                "POOL_FAILED", f"{what}: the file system says {said}", fix="look at the disk below the directory of the pool", errno=said
            )


def full(what: str) -> ResourceExhausted:
    return ResourceExhausted("POOL_FULL", f"{what}: the disk below the directory of the pool is full", fix="add room, or delete something")
