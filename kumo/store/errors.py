"""What the store can answer besides success, and the one table that tells etcd's errors apart.

etcd says what happened by a gRPC code and an English sentence; both are read here and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from kumo.errors import Aborted, Error, FailedPrecondition, InvalidArgument, Unavailable


class Compacted(Exception):
    """History up to `revision` is gone: list again."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"history up to revision {revision} is compacted")
        self.revision = revision


class WatchRefused(Exception):
    """etcd will not serve this watch to this client, whatever the endpoint."""


class LeaseGone(Exception):
    """The lease has expired or was revoked."""


class Unknown(Unavailable):
    """A write whose answer did not come: it may have happened, or may happen yet. Read it back before anything else."""

    def __init__(self, why: str) -> None:
        super().__init__("OUTCOME_UNKNOWN", f"the store did not answer a write in time ({why})", fix="read it back, then try again")


class StoreFull(Unavailable):
    """etcd's quota is used up. Reads and deletes go on; the leader makes room by itself."""

    def __init__(self) -> None:
        super().__init__("STORE_FULL", "the store has no room for a write", fix="wait: the controller compacts the store by itself")


class StoreUnreachable(Unavailable):
    """No endpoint takes requests. What was asked did not happen."""

    def __init__(self, why: str) -> None:
        super().__init__("STORE_UNREACHABLE", f"no member of the store takes requests ({why})", fix="try again in a second")


class StoreReplaced(Unavailable):
    """Another cluster answers on the endpoints: a restored snapshot, or a wrong address. The process has to start anew."""

    def __init__(self, expected: int, got: int) -> None:
        message = f"the store is cluster {got:x}, not {expected:x} as before"
        super().__init__("STORE_REPLACED", message, fix="restart the process: what it remembers is of another store")


class Conflict(Aborted):
    """What the transaction was based on has changed. Read again, decide again."""

    def __init__(self, what: str, **metadata: str | int) -> None:
        super().__init__("CONFLICT", f"{what} changed in between", field="", fix="read it again and repeat", **metadata)


class Deposed(Aborted):
    """The leader whose term fences the write leads no more. Stop."""

    def __init__(self, term: str) -> None:
        super().__init__("NOT_LEADER", f"term {term} has ended", fix="ask the leader")


@dataclass(frozen=True)
class Referrer:
    """A record that refers to another."""

    table: str
    uid: str
    name: str


class ReferencedError(FailedPrecondition):
    """A record cannot go while others refer to it. `referrers` holds the first of them."""

    def __init__(self, name: str, referrers: Sequence[Referrer], count: int) -> None:
        listed = ", ".join(referrer.name for referrer in referrers)
        more = f" and {count - len(referrers)} more" if count > len(referrers) else ""
        message = f"{name} is used by {listed}{more}"
        super().__init__("REFERENCED", message, fix="delete or change those first", name=name, referrers=listed, count=count)
        self.referrers = tuple(referrers)
        self.count = count


class TargetGone(FailedPrecondition):
    """A record that was about to be referred to is gone, or being deleted."""

    def __init__(self, table: str, uid: str, name: str, field: str) -> None:
        message = f"{table} {name or uid} is gone or being deleted"
        super().__init__("REFERENCE_GONE", message, field=field, fix="refer to another one", table=table, uid=uid, name=name)


# Texts with which a request was certainly not begun, so that even a write may be sent again.
_NOT_BEGUN = ("failed to connect to all addresses", "etcdserver: no leader", "etcdserver: too many requests", "etcdserver: not capable")
_AMBIGUOUS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
}


def translate(code: grpc.StatusCode, text: str) -> Exception:
    """Return what an error of etcd means to the store; Unknown for everything after which a write may have happened."""
    if any(text.startswith(start) for start in _NOT_BEGUN):
        return StoreUnreachable(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "database space exceeded" in text:
        return StoreFull()
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in text:
        return Compacted(0)
    if code is grpc.StatusCode.NOT_FOUND and "lease not found" in text:
        return LeaseGone()
    if code is grpc.StatusCode.INVALID_ARGUMENT and "too large" in text:
        return InvalidArgument("REQUEST_TOO_LARGE", "the change is larger than the store takes at once", fix="store less")
    if code is grpc.StatusCode.INVALID_ARGUMENT and "too many operations" in text:
        return FailedPrecondition(
            "STORE_TXN_SMALL", "etcd takes fewer operations in a transaction than Kumo sends", fix="start etcd with --max-txn-ops=1024"
        )
    if code in _AMBIGUOUS:
        return Unknown(f"{code.name}: {text}")
    return RuntimeError(f"etcd refused a request: {code.name}: {text}")


def is_endpoint_fault(code: grpc.StatusCode, text: str) -> bool:
    """Return whether another endpoint may do better: transport faults and silence, and a member cut off from its leader."""
    if text.startswith("etcdserver: no leader"):
        return True
    return code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) and not text.startswith("etcdserver:")


__all__ = [
    "Compacted",
    "Conflict",
    "Deposed",
    "Error",
    "LeaseGone",
    "ReferencedError",
    "Referrer",
    "StoreFull",
    "StoreReplaced",
    "StoreUnreachable",
    "TargetGone",
    "Unknown",
    "WatchRefused",
    "is_endpoint_fault",
    "translate",
]
