"""Sends changes that are ready at the same time as one transaction of etcd, and one transaction after another: group commit.

Many workers write a status each at the same moment, and what a transaction costs hardly depends on how many are in it. One whose own
guards do not hold is taken out and told so, and the others go again. None waits for company: whoever comes while nothing is under
way goes at once.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kumo.store.barrier import Barrier
from kumo.store.changes import Changes, Committed, Found, Refused, merged
from kumo.store.errors import StoreUnreachable, Unknown
from kumo.store.etcd import rpc_pb2 as pb
from kumo.store.interface import EtcdClient

# An etcd that nobody set up takes 128 operations in a transaction. One of more than this goes by itself.
_MOST_COST = 100
# How many that cannot go along are looked at before those that can are sent.
_PASSED_OVER = 32
_LISTED = 20


class Unsettled(StoreUnreachable):
    """What was given up before may still take effect, so that nothing else was begun."""


@dataclass
class _Member:
    changes: Changes
    outcome: "asyncio.Future[Committed | Refused]"


@dataclass
class GroupCommit:
    """What waits to be sent through one client under one barrier."""

    etcd: EtcdClient
    barrier: Barrier
    _waiting: deque[_Member] = field(default_factory=deque)
    _is_served: bool = False

    async def send(self, changes: Changes) -> Committed | Refused:
        """Return what became of it. Raises Unknown, Unsettled, StoreUnreachable, or why etcd refused."""
        member = _Member(changes, asyncio.get_running_loop().create_future())
        self._waiting.append(member)
        if not self._is_served:
            # A task of the client's and not of this caller's: if this caller gives up, the others' changes are sent all the same.
            self._is_served = True
            self.etcd.start(self._serve())
        return await member.outcome

    async def _serve(self) -> None:
        """Send until nobody waits."""
        try:
            while members := self._take():
                await self._settle(members)
        finally:
            self._is_served = False
            _fail(self._waiting, StoreUnreachable("this process uses it no more"))

    def _take(self) -> list[_Member]:
        """Take from the queue what can go together: the first, and whatever looks at nothing that those before it write."""
        members: list[_Member] = []
        together, cost = Changes(), 0
        later: list[_Member] = []
        while self._waiting and len(later) < _PASSED_OVER:
            member = self._waiting.popleft()
            if member.outcome.done():
                continue  # it was given up
            if members and (cost + member.changes.cost > _MOST_COST or not member.changes.may_follow(together)):
                later.append(member)
                continue
            members.append(member)
            together.add(member.changes)
            cost += member.changes.cost
        self._waiting.extendleft(reversed(later))
        return members

    async def _settle(self, members: list[_Member]) -> None:
        """Send `members` as one until it is known of each what became of its own changes, and tell it."""
        try:
            while members:
                outcomes = await self._send([member.changes for member in members])
                for member, outcome in zip(members, outcomes, strict=True):
                    if outcome is not None and not member.outcome.done():
                        member.outcome.set_result(outcome)
                members = [member for member in members if not member.outcome.done()]
        except (Unknown, StoreUnreachable) as error:
            _fail(members, error)
        except Exception as error:  # noqa: BLE001  # whatever etcd has against changes, belongs to whoever sent them
            if len(members) == 1:
                _fail(members, error)
                return
            for member in members:
                await self._settle([member])
        except asyncio.CancelledError:
            _fail(members, Unknown("this process waits no more"))
            raise

    async def _send(self, parts: list[Changes]) -> list[Committed | Refused | None]:
        """Return what became of each; None if it was the others' guards, or the barrier, that did not hold."""
        try:
            await self.barrier.settle()
        except Unknown as error:
            raise Unsettled(error.message) from error
        together = parts[0] if len(parts) == 1 else merged(parts)
        guards, barrier = list(together.guards.values()), self.barrier.compare()
        ranges = {(guard.compare.key, guard.compare.range_end): None for guard in guards}
        looks = [_look(*one) for one in [*ranges, (barrier.key, b"")]]
        try:
            answer = await self.etcd.txn([*(guard.compare for guard in guards), barrier], together.operations, looks)
        except (Unknown, asyncio.CancelledError):
            self.barrier.doubt()
            raise
        if answer.succeeded:
            return [Committed(answer.header.revision)] * len(parts)
        found = {
            one: Found(response.response_range.kvs, response.response_range.count)
            for one, response in zip(ranges, answer.responses[:-1], strict=True)
        }
        raised = answer.responses[-1].response_range.kvs
        raised_at = raised[0].mod_revision if raised else 0
        if raised_at != barrier.mod_revision:
            self.barrier.learn(raised_at)
        outcomes: list[Committed | Refused | None] = [_refused(part, found, answer.header.revision) for part in parts]
        if raised_at == barrier.mod_revision and not any(outcomes):
            raise RuntimeError("etcd refused a transaction whose guards hold")
        return outcomes


def _refused(changes: Changes, found: Mapping[tuple[bytes, bytes], Found], revision: int) -> Refused | None:
    """Return which of its own guards did not hold; None if all did."""
    own = [(guard, found[guard.compare.key, guard.compare.range_end]) for guard in changes.guards.values()]
    failed = tuple((guard, there) for guard, there in own if not guard.holds(there))
    return Refused(failed, {guard.compare.key: there for guard, there in own}, revision) if failed else None


def _fail(members: Iterable[_Member], error: Exception) -> None:
    for member in members:
        if not member.outcome.done():
            member.outcome.set_exception(error)


def _look(key: bytes, range_end: bytes) -> pb.RequestOp:
    request = pb.RangeRequest(key=key, range_end=range_end)
    if range_end:
        request.limit = _LISTED
        request.sort_target, request.sort_order = pb.RangeRequest.CREATE, pb.RangeRequest.DESCEND
    return pb.RequestOp(request_range=request)
