"""Decides what an error of librados or librbd means to a caller. A timeout is unknown, never failed; the caller reads back."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import rados
import rbd

from kumo.errors import Error, FailedPrecondition, ResourceExhausted, Unavailable


class OperationFailed(Exception):
    """An operation on an object ended with an error: the bindings do not hand out a way to raise their own."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.errno = number


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what Ceph's bindings raise inside the block as an Error; `what` says in the message what was tried."""
    try:
        yield
    except (rados.Error, rbd.Error, OperationFailed) as error:
        raise translate(error, what) from error


def translate(error: Exception, what: str) -> Error:
    number = abs(int(getattr(error, "errno", None) or 0))
    said = errno.errorcode.get(number, type(error).__name__)
    match number:
        case errno.ETIMEDOUT:
            return Unavailable("CEPH_TIMEOUT", f"{what}: Ceph did not answer in time; whether it was done is unknown", errno=said)
        case errno.ESHUTDOWN:
            return Unavailable("CEPH_CONNECTION_LOST", f"{what}: the cluster refuses this connection", errno=said)
        case errno.ENOSPC | errno.EDQUOT:
            return ResourceExhausted(
                "POOL_FULL",
                f"{what}: the pool or the cluster is full",
                fix="add disks, or raise the full ratio a little and delete",
                errno=said,
            )
        case errno.EPERM | errno.EACCES:
            return FailedPrecondition(
                "CEPH_DENIED", f"{what}: the key of this host may not do that", fix="look at the key's caps", errno=said
            )
        case errno.EBUSY:
            return FailedPrecondition("CEPH_BUSY", f"{what}: somebody has it open", errno=said)
        case errno.ENOENT:
            return FailedPrecondition("CEPH_MISSING", f"{what}: there is no such pool or object", errno=said)
        case _:
            return Unavailable("CEPH_FAILED", f"{what}: {said}: {error}", errno=said)


def ends_connection(error: Error) -> bool:
    """True when the connection is of no more use: it was blocklisted, or nobody can say what it still waits for."""
    return isinstance(error, Unavailable) and error.reason in ("CEPH_CONNECTION_LOST", "CEPH_TIMEOUT", "CEPH_STUCK")
