"""Guarded changes of the store: what has to hold, what is written, and what became of it. Pure; commit.py sends them.

It knows keys and revisions, not records.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from kumo.store import ops
from kumo.store.etcd import kv_pb2
from kumo.store.etcd import rpc_pb2 as pb

_C = pb.Compare


@dataclass(frozen=True)
class Found:
    """What was there when a guard failed: the newest keys of its range, and how many there are."""

    items: Sequence[kv_pb2.KeyValue]
    count: int


Explain = Callable[[Found], Exception]


@dataclass(frozen=True)
class Guard:
    """A compare and what it means when it does not hold."""

    compare: pb.Compare
    explain: Explain

    def holds(self, found: Found) -> bool:
        """Decide as etcd does: over a range, of every key in it; an absent key has revision 0 and no value."""
        compare = self.compare
        if compare.target == _C.VALUE:
            return bool(found.items) and all(item.value == compare.value for item in found.items)
        name = "create_revision" if compare.target == _C.CREATE else "mod_revision"
        wanted: int = getattr(compare, name)
        revisions = [int(getattr(item, name)) for item in found.items] or [0]
        if compare.result == _C.EQUAL:
            return all(revision == wanted for revision in revisions)
        if compare.result == _C.GREATER:
            return all(revision > wanted for revision in revisions)
        return all(revision < wanted for revision in revisions)


@dataclass(frozen=True)
class Witness:
    """A write by which a lost commit is recognised: it is guarded by its key's revision `before`, so it can happen only once.

    `value` None: the key is deleted.
    """

    key: bytes
    before: int
    value: bytes | None


@dataclass(frozen=True)
class Committed:
    revision: int


@dataclass(frozen=True)
class Refused:
    """Guards that did not hold, with what was found; and what was found under every guarded key."""

    failed: tuple[tuple[Guard, Found], ...]
    found: dict[bytes, Found]
    revision: int


class Changes:
    """Guards and operations, in the order they were added; a plain value, so that several can be sent as one."""

    def __init__(self) -> None:
        self.guards: dict[bytes, Guard] = {}
        self.operations: list[pb.RequestOp] = []
        # Key ranges, as etcd has them: a start and an end, empty for a single key. Then where they begin, and those that have an end.
        self.written: list[tuple[bytes, bytes]] = []
        self.written_keys: set[bytes] = set()
        self.cleared: list[tuple[bytes, bytes]] = []
        # Of what is written; the rest is little.
        self.value_bytes = 0
        self.witness: Witness | None = None
        self.stamped: list[Message] = []

    def require(self, compare: pb.Compare, explain: Explain) -> None:
        self.guards.setdefault(compare.SerializeToString(), Guard(compare, explain))

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        self.operations.append(ops.put(key, value, lease))
        self.value_bytes += len(value)
        self.written.append((key, b""))
        self.written_keys.add(key)

    def delete(self, key: bytes, range_end: bytes = b"") -> None:
        self.operations.append(ops.delete(key, range_end))
        self.written.append((key, range_end))
        self.written_keys.add(key)
        if range_end:
            self.cleared.append((key, range_end))

    def add(self, other: "Changes") -> None:
        """Take over all of `other`."""
        for identity, guard in other.guards.items():
            self.guards.setdefault(identity, guard)
        self.operations += other.operations
        self.written += other.written
        self.written_keys |= other.written_keys
        self.cleared += other.cleared
        self.value_bytes += other.value_bytes
        self.stamped += other.stamped
        self.witness = self.witness or other.witness

    def may_follow(self, earlier: "Changes") -> bool:
        """Return whether both can go in one transaction, as if `earlier` had gone first.

        All guards of a transaction see what was there before it, so these must not look at what `earlier` writes; and etcd
        takes one write of a key.
        """
        looked_at = [(guard.compare.key, guard.compare.range_end) for guard in self.guards.values()]
        mine = [*looked_at, *self.written]
        # Nearly all are single keys, of which only equal ones have one in common.
        if not earlier.written_keys.isdisjoint([start for start, _ in mine]):
            return False
        if any(_overlap(one, its) for its in earlier.cleared for one in mine):
            return False
        return not any(_overlap(one, its) for one in mine if one[1] for its in earlier.written)

    @property
    def cost(self) -> int:
        """What counts against etcd's limit of operations in a transaction."""
        return max(len(self.guards), len(self.operations))


def merged(parts: Iterable[Changes]) -> Changes:
    """Return all of `parts` as one."""
    together = Changes()
    for part in parts:
        together.add(part)
    return together


def _overlap(one: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
    """Return whether two key ranges have a key in common."""
    first, second = sorted((one, other))
    return first[0] == second[0] or second[0] < first[1]
