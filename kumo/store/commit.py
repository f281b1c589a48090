"""Sends guarded changes to etcd until it is known what became of them, and says which guards did not hold.

An answer that does not come is not a failure: the same transaction is sent again where its guards make a second application
impossible, and what it wrote is read back; the first one is kept from taking effect later. It knows keys and revisions, not records.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from kumo.clock import Clock
from kumo.store import ops
from kumo.store.barrier import Barrier
from kumo.store.errors import StoreUnreachable, Unknown
from kumo.store.etcd import kv_pb2
from kumo.store.etcd import rpc_pb2 as pb
from kumo.store.interface import EtcdClient
from kumo.store.metrics import COMMITS
from kumo.store.record import Etags, stamp

_LISTED = 20
# The watch stream asks for a sign of life each second.
_SILENT_S = 2.5
# What is left of the second in which whoever writes is told that etcd is away.
_ASKED_S = 0.7
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
        # Key ranges, as etcd has them: a start and an end, empty for a single key.
        self.written: list[tuple[bytes, bytes]] = []
        # Where those begin.
        self.written_keys: set[bytes] = set()
        self.witness: Witness | None = None
        self.stamped: list[Message] = []

    def require(self, compare: pb.Compare, explain: Explain) -> None:
        self.guards.setdefault(compare.SerializeToString(), Guard(compare, explain))

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        self.operations.append(ops.put(key, value, lease))
        self.written.append((key, b""))
        self.written_keys.add(key)

    def delete(self, key: bytes, range_end: bytes = b"") -> None:
        self.operations.append(ops.delete(key, range_end))
        self.written.append((key, range_end))
        self.written_keys.add(key)

    def add(self, other: "Changes") -> None:
        """Take over all of `other`."""
        for identity, guard in other.guards.items():
            self.guards.setdefault(identity, guard)
        self.operations += other.operations
        self.written += other.written
        self.written_keys |= other.written_keys
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
        if any(_overlap(one, its) for its in earlier.written if its[1] for one in mine):
            return False
        return not any(_overlap(one, its) for one in mine if one[1] for its in earlier.written)

    @property
    def cost(self) -> int:
        """What counts against etcd's limit of operations in a transaction."""
        return max(len(self.guards), len(self.operations))


@dataclass(frozen=True)
class Committer:
    """Sends changes to etcd until it is known what became of them."""

    etcd: EtcdClient
    clock: Clock
    rng: random.Random
    etags: Etags
    barrier: Barrier
    timeout_s: float = 4.0

    async def commit(self, changes: Changes) -> Committed | Refused:
        """Raises Unknown if neither an answer nor a trace could be had in time, StoreFull, StoreUnreachable.

        While etcd is silent nothing is begun: whoever asked is told so at once.
        """
        if self._is_silent() and not await self._answers():
            COMMITS.labels("unreachable").inc()
            raise StoreUnreachable(f"nothing was heard of it for {self.etcd.silent_s():.0f} s")
        deadline = self.clock.monotonic() + self.timeout_s
        is_repeated = False
        while True:
            is_sent = False
            try:
                await self.barrier.settle()
                is_sent = True
                result = await self._send(changes)
            except (Unknown, StoreUnreachable) as error:
                may_have_happened = is_repeated or (is_sent and isinstance(error, Unknown))
                # The client has looked for somebody who takes requests already, for as long as a caller should wait.
                is_hopeless = isinstance(error, StoreUnreachable) or self._is_silent() or self.clock.monotonic() > deadline
                if changes.witness is None or is_hopeless:
                    COMMITS.labels("unknown" if may_have_happened else "unreachable").inc()
                    if may_have_happened and not isinstance(error, Unknown):
                        raise Unknown(error.message) from error
                    raise
                is_repeated = may_have_happened
                await self.clock.sleep(self.rng.uniform(0.02, 0.1))
                continue
            if result is None:
                continue
            if isinstance(result, Refused) and is_repeated and (revision := _own_revision(changes.witness, result)):
                COMMITS.labels("read_back").inc()
                result = Committed(revision)
            COMMITS.labels("ok" if isinstance(result, Committed) else "refused").inc()
            if isinstance(result, Committed):
                for message in changes.stamped:
                    stamp(message, self.etags.of(result.revision))
            return result

    def _is_silent(self) -> bool:
        return self.etcd.silent_s() > _SILENT_S

    async def _answers(self) -> bool:
        """Ask etcd itself before a write is refused: it may have been this process that was stopped, and not etcd."""
        try:
            async with asyncio.timeout(_ASKED_S):
                await self.etcd.range(pb.RangeRequest(key=self.barrier.key, keys_only=True))
        except (TimeoutError, StoreUnreachable):
            return False
        return True

    async def _send(self, changes: Changes) -> Committed | Refused | None:
        """Return None if the barrier alone was in the way."""
        guards, barrier = list(changes.guards.values()), self.barrier.compare()
        ranges = {(guard.compare.key, guard.compare.range_end): None for guard in guards}
        looks = [_look(*one) for one in [*ranges, (barrier.key, b"")]]
        try:
            answer = await self.etcd.txn([*(guard.compare for guard in guards), barrier], changes.operations, looks)
        except (Unknown, asyncio.CancelledError):
            self.barrier.doubt()
            raise
        if answer.succeeded:
            return Committed(answer.header.revision)
        found = {
            key: Found(response.response_range.kvs, response.response_range.count)
            for (key, _), response in zip(ranges, answer.responses[:-1], strict=True)
        }
        raised = answer.responses[-1].response_range.kvs
        raised_at = raised[0].mod_revision if raised else 0
        if raised_at != barrier.mod_revision:
            self.barrier.learn(raised_at)
        failed = tuple((guard, found[guard.compare.key]) for guard in guards if not guard.holds(found[guard.compare.key]))
        if not failed and raised_at != barrier.mod_revision:
            return None
        if not failed:
            raise RuntimeError("etcd refused a transaction whose guards hold")
        return Refused(failed, found, answer.header.revision)


def _overlap(one: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
    """Return whether two key ranges have a key in common."""
    first, second = sorted((one, other))
    return first[0] == second[0] or second[0] < first[1]


def _look(key: bytes, range_end: bytes) -> pb.RequestOp:
    request = pb.RangeRequest(key=key, range_end=range_end)
    if range_end:
        request.limit = _LISTED
        request.sort_target, request.sort_order = pb.RangeRequest.CREATE, pb.RangeRequest.DESCEND
    return pb.RequestOp(request_range=request)


def _own_revision(witness: Witness | None, refused: Refused) -> int:
    """Return the revision at which an earlier sending of the same changes took effect, or 0 if it did not."""
    if witness is None or witness.key not in refused.found:
        return 0
    items = refused.found[witness.key].items
    if witness.value is None:
        return 0 if items else refused.revision
    if items and items[0].value == witness.value and items[0].mod_revision != witness.before:
        return int(items[0].mod_revision)
    return 0
