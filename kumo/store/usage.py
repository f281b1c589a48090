"""Counts what each project uses, in the transaction that changes it, many commits of one project at a time.

A project's counters are guarded by their revision, so that two commits of a project refuse each other. Those of one process
therefore queue and go together as one transaction; one whose own guards do not hold is taken out and told why, the rest go.
It sets no limit: a limit is the caller's `check`.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kumo.errors import Error
from kumo.store import ops
from kumo.store.changes import Changes, Committed, Found, Guard, Refused
from kumo.store.errors import Conflict
from kumo.store.plane import Plane
from kumo.store.txn import Txn
from kumo.store.v1 import values_pb2

# Kumo has its etcd take 1,024 operations in one transaction (--max-txn-ops). While one is under way others gather, so that where etcd is
# slow it is how many go with the next that decides how fast a project's commits are.
_MOST_OPERATIONS = 1_000
# etcd takes 1.5 MiB in a request. Half of that is left for keys and guards.
_MOST_BYTES = 768 << 10
# Of how many projects the counters are remembered between commits.
_MOST_PROJECTS = 4096

Check = Callable[[Mapping[str, int]], None]


@dataclass(frozen=True)
class _Counter:
    amount: int
    revision: int


_NONE = _Counter(0, 0)


@dataclass
class _Member:
    """One commit that waits: its transaction, what it adds to which counter, what it demands of the sums."""

    txn: Txn
    deltas: Mapping[str, int]
    check: Check | None
    done: "asyncio.Future[int]"


@dataclass
class _Queue:
    """What waits for one project, and its counters as last known; None when they have to be read."""

    waiting: deque[_Member] = field(default_factory=deque)
    known: dict[str, _Counter] | None = None
    is_served: bool = False


class Usage:
    """The counters of all projects, as this process last knew them."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._queues: dict[str, _Queue] = defaultdict(_Queue)

    async def commit(self, txn: Txn, project_uid: str, deltas: Mapping[str, int], *, check: Check | None = None) -> int:
        """Commit `txn` together with a change of the project's counters by `deltas`, by class; return the revision.

        `check` gets the sums as they would be, by class, and raises to refuse. Raises what Txn.commit() raises.
        """
        changes = {kind: delta for kind, delta in deltas.items() if delta}
        if not changes and check is None:
            return await txn.commit()
        await txn.prepare()
        queue = self._queues[project_uid]
        member = _Member(txn, changes, check, asyncio.get_running_loop().create_future())
        queue.waiting.append(member)
        if not queue.is_served:
            # A task of the plane's and not of this caller's: if this caller gives up, the others' commits go on.
            queue.is_served = True
            self._plane.start(self._serve(project_uid, queue))
        try:
            revision = await member.done
        finally:
            if member in queue.waiting:
                queue.waiting.remove(member)
        await txn.settle(revision)
        return revision

    async def of(self, project_uid: str) -> dict[str, int]:
        """Return the counters by class as the store has them now."""
        return {kind: counter.amount for kind, counter in (await self._read(project_uid)).items()}

    async def _serve(self, project_uid: str, queue: _Queue) -> None:
        """Send batches until nobody waits."""
        try:
            while queue.waiting:
                await self._send(project_uid, queue)
        finally:
            queue.is_served = False
            if len(self._queues) > _MOST_PROJECTS and not queue.waiting:
                del self._queues[project_uid]  # read anew when it is wanted: a project may be gone for ever

    async def _send(self, project_uid: str, queue: _Queue) -> None:
        """Send one batch and settle all of its members that are decided by it."""
        members: list[_Member] = []
        try:
            known = queue.known if queue.known is not None else await self._read(project_uid)
            # If the commit raises, nothing is known any more, and the next one reads anew.
            queue.known = None
            members, sums, together = _batch(queue, known)
            if members:
                self._count(together, project_uid, known, sums)
            result = await self._plane.send(together) if members else Committed(0)
        except Error as error:
            if not members:
                members = list(queue.waiting)
                queue.waiting.clear()
            _fail(members, error)
            return
        if isinstance(result, Committed):
            queue.known = known | {kind: _Counter(amount, result.revision) for kind, amount in sums.items()}
            for member in members:
                if not member.done.done():
                    member.done.set_result(result.revision)
            return
        self._refused(project_uid, queue, members, result)

    def _count(self, together: Changes, project_uid: str, known: Mapping[str, _Counter], sums: Mapping[str, int]) -> None:
        """Have `together` set the counters to `sums`, as long as they are what is known."""
        for kind, amount in sums.items():
            key = self._plane.keys.raw(_key(project_uid, kind))
            together.require(ops.mod_revision_is(key, known.get(kind, _NONE).revision), lambda _: Conflict(f"usage of {project_uid}"))
            together.put(key, values_pb2.Usage(amount=amount).SerializeToString())

    def _refused(self, project_uid: str, queue: _Queue, members: list[_Member], result: Refused) -> None:
        """Tell those whose own guards failed; the others go again, with the counters read anew."""
        failed = {guard.compare.SerializeToString(): (guard, found) for guard, found in result.failed}
        again: list[_Member] = []
        for member in members:
            own = next((failed[identity] for identity in member.txn.changes.guards if identity in failed), None)
            if own is None:
                again.append(member)
            else:
                _fail([member], _explained(member, own))
        queue.waiting.extendleft(reversed(again))

    async def _read(self, project_uid: str) -> dict[str, _Counter]:
        prefix = _key(project_uid, "")
        items = {self._plane.keys.relative(item.key).removeprefix(prefix): item for item in await self._plane.scan(prefix)}
        return {kind: _Counter(values_pb2.Usage.FromString(item.value).amount, item.mod_revision) for kind, item in items.items()}


def _batch(queue: _Queue, known: Mapping[str, _Counter]) -> tuple[list[_Member], dict[str, int], Changes]:
    """Take from the queue what fits into one transaction; refuse what its check refuses. Return it with the new sums, and as one."""
    members: list[_Member] = []
    sums: dict[str, int] = {}
    together = Changes()
    while queue.waiting:
        member = queue.waiting[0]
        changes = member.txn.changes
        # What looks at what another one writes comes with the next transaction, and finds it changed.
        if members and not (_fits(together, changes, len(sums.keys() | member.deltas.keys())) and changes.may_follow(together)):
            break
        queue.waiting.popleft()
        after = {kind: sums.get(kind, known.get(kind, _NONE).amount) + delta for kind, delta in member.deltas.items()}
        try:
            if member.check is not None:
                member.check({**{kind: counter.amount for kind, counter in known.items()}, **sums, **after})
        except Exception as error:  # noqa: BLE001  # whatever it raises belongs to the member's caller
            _fail([member], error)
            continue
        members.append(member)
        sums |= after
        together.add(changes)
    return members, sums, together


def _fits(together: Changes, more: Changes, counters: int) -> bool:
    """Return whether etcd takes both and so many counters in one transaction."""
    return together.cost + more.cost + counters <= _MOST_OPERATIONS and together.value_bytes + more.value_bytes <= _MOST_BYTES


def _explained(member: _Member, failed: tuple[Guard, Found]) -> Exception:
    guard, found = failed
    own = member.txn.changes.guards[guard.compare.SerializeToString()]
    return own.explain(found)


def _fail(members: list[_Member], error: Exception) -> None:
    for member in members:
        if not member.done.done():
            member.done.set_exception(error)


def _key(project_uid: str, kind: str) -> str:
    return f"usage/{project_uid}/{kind}"
