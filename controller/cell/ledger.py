"""All records of a cell in the memory of its leader, and the one way to change them: a transaction fenced by the leader's term.

One watch follows the whole plane, so that what belongs together is seen together and in order. What records mean is others'.
"""

import asyncio
import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, Generic, cast

from google.protobuf.message import Message

from kumo.clock import Clock, SystemClock
from kumo.errors import Unavailable
from kumo.log import get_logger
from kumo.store import ops
from kumo.store.barrier import Barrier
from kumo.store.changes import Changes, Committed, Refused, Witness
from kumo.store.commit import Committer
from kumo.store.errors import Compacted, Conflict, Deposed
from kumo.store.etcd import kv_pb2, rpc_pb2
from kumo.store.group import GroupCommit
from kumo.store.interface import EtcdClient
from kumo.store.keys import INTENT, STATUS, Keys
from kumo.store.loader import load_table
from kumo.store.record import Entry, Etags, Indexes, M, serialized, table_name
from kumo.store.replica import Replica, Step
from kumo.store.term import Term

log = get_logger(__name__)

OnChange = Callable[[str], None]

_REACH_S = 5.0


class View(Generic[M]):
    """One table of the ledger, to read."""

    def __init__(self, message_type: type[M], keys: Keys, indexes: Indexes[M]) -> None:
        self.type = message_type
        self.table = table_name(message_type)
        self._keys, self._indexes = keys, indexes
        self._replica = self._fresh()
        self._on_intent: list[OnChange] = []
        self._on_status: list[OnChange] = []

    def get(self, uid: str) -> M | None:
        """Return the record with its status, or None."""
        entry = self._replica.entries.get(uid)
        return self.type.FromString(entry.intent + entry.status) if entry is not None else None

    def entry(self, uid: str) -> Entry | None:
        """Return the record as bytes, with the revisions that wrote its parts."""
        return self._replica.entries.get(uid)

    def intent_revision(self, uid: str) -> int:
        entry = self._replica.entries.get(uid)
        return entry.intent_revision if entry is not None else 0

    def status_revision(self, uid: str) -> int:
        entry = self._replica.entries.get(uid)
        return entry.status_revision if entry is not None else 0

    def find(self, index: str, value: str) -> list[M]:
        """Return the records that have `value` in `index`, in no order."""
        return [self.type.FromString(entry.intent + entry.status) for entry in self._replica.find(index, value)]

    def uids(self) -> list[str]:
        return list(self._replica.entries)

    def all(self) -> Iterator[M]:
        for uid in self.uids():
            record = self.get(uid)
            if record is not None:
                yield record

    def on_intent(self, callback: OnChange) -> None:
        """Call `callback` with the uid of each record that comes, goes or whose intent changes from now on."""
        self._on_intent.append(callback)

    def on_status(self, callback: OnChange) -> None:
        """Call `callback` with the uid of each record whose status changes from now on."""
        self._on_status.append(callback)

    def load(self, items: Iterable[kv_pb2.KeyValue], revision: int) -> None:
        """Take `items` for the whole table as of `revision`, and tell of all that differs from before."""
        loaded = self._fresh()
        loaded.load(items, revision)
        before, self._replica = self._replica, loaded
        self._tell(before.difference(loaded))

    def apply(self, events: Iterable[kv_pb2.Event]) -> None:
        """Follow events of this table, in order."""
        for step in self._replica.apply(events):
            self._tell(step)

    def _fresh(self) -> Replica[M]:
        return Replica(self.type, self._keys.records(self.table), self._indexes, named=False)

    def _tell(self, step: Step) -> None:
        for delta in step.deltas:
            before, after = delta.before, delta.after
            if before is None or after is None or before.intent_revision != after.intent_revision:
                for callback in self._on_intent:
                    callback(delta.uid)
            if after is not None and (before is None or before.status_revision != after.status_revision):
                for callback in self._on_status:
                    callback(delta.uid)


class Change:
    """One transaction: what it writes, each with the revision that it replaces (0: nothing was there)."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.changes = Changes()

    def put(self, record: Message, part: str = INTENT, *, replaces: int) -> None:
        key = self.keys.part(table_name(type(record)), _uid(record), part)
        value = serialized(record)
        self._replaces(key, replaces)
        self.changes.put(key, value)
        # A commit whose answer was lost is recognised by what it wrote.
        self.changes.witness = self.changes.witness or Witness(key, replaces, value)

    def append(self, record: Message) -> None:
        """Write what nobody else writes, such as an event."""
        self.changes.put(self.keys.part(table_name(type(record)), _uid(record), INTENT), serialized(record))

    def delete(self, record_type: type[Message], uid: str, part: str = INTENT, *, replaces: int) -> None:
        key = self.keys.part(table_name(record_type), uid, part)
        self._replaces(key, replaces)
        self.changes.delete(key)

    def remove(self, record_type: type[Message], uid: str) -> None:
        """Delete the intent of a record that nobody changes, whether it is there or not."""
        self.changes.delete(self.keys.part(table_name(record_type), uid, INTENT))

    def guard(self, record_type: type[Message], uid: str, part: str, revision: int) -> None:
        """Have the transaction fail if that part was changed since `revision`."""
        self._replaces(self.keys.part(table_name(record_type), uid, part), revision)

    def claim_name(self, record: Message, name: str) -> None:
        """Have the transaction fail if a record of this type has that name already."""
        key = self.keys.name(table_name(type(record)), name)
        self._replaces_created(key, 0)
        self.changes.put(key, _uid(record).encode())

    def free_name(self, record: Message, name: str) -> None:
        self.changes.delete(self.keys.name(table_name(type(record)), name))

    @property
    def is_empty(self) -> bool:
        return not self.changes.operations

    def _replaces_created(self, key: bytes, revision: int) -> None:
        conflict = Conflict(self.keys.relative(key))
        self.changes.require(ops.create_revision_is(key, revision), lambda _: conflict)

    def _replaces(self, key: bytes, revision: int) -> None:
        conflict = Conflict(self.keys.relative(key))
        self.changes.require(ops.mod_revision_is(key, revision), lambda _: conflict)


def _uid(record: Message) -> str:
    return cast(str, cast(Any, record).uid)  # Any: no generated type can say that every record has a uid


class Ledger:
    """The tables, the watch that keeps them fresh, and commit()."""

    def __init__(self, etcd: EtcdClient, keys: Keys, term: Term, *, clock: Clock | None = None, rng: random.Random | None = None) -> None:
        """Everything that is written is fenced by `term`."""
        self.etcd, self.keys, self.term = etcd, keys, term
        self.revision = 0
        etags = Etags(term.incarnation)
        rng = rng or random.Random()
        self._committer = Committer(GroupCommit(etcd, Barrier(etcd, keys, rng)), clock or SystemClock(), rng, etags)
        self._views: dict[str, View[Any]] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def add(self, message_type: type[M], indexes: Indexes[M] | None = None) -> View[M]:
        """Follow the table of `message_type`; before load()."""
        view = View(message_type, self.keys, indexes or {})
        self._views[view.table] = view
        return view

    def change(self) -> Change:
        return Change(self.keys)

    async def load(self) -> None:
        """Read every table at one revision."""
        revision = 0
        loaded: list[tuple[View[Any], list[kv_pb2.KeyValue]]] = []
        for view in self._views.values():
            items, revision = await load_table(self.etcd, self.keys, view.table, revision)
            loaded.append((view, items))
        for view, items in loaded:
            view.load(items, revision)
        self._advance(revision)

    async def run(self) -> None:
        """Follow the plane for ever; after load()."""
        prefix = self.keys.raw("record/")
        while True:
            try:
                async with self.etcd.watch(prefix, ops.prefix_end(prefix), self.revision + 1) as watch:
                    async for batch in watch:
                        self._apply(batch.events)
                        self._advance(batch.revision)
            except Compacted as error:
                log.info("ledger lists again", compacted=error.revision, revision=self.revision)
                await self.load()

    async def commit(self, change: Change) -> int:
        """Return the revision once the change is stored and visible here.

        Raises Conflict if something it replaces was changed, Deposed if another leads, Unknown if it may have happened.
        """
        deposed = Deposed(str(self.term))
        change.changes.require(ops.create_revision_is(self.keys.raw("lead"), self.term.create_revision), lambda _: deposed)
        result = await self._committer.commit(change.changes)
        if isinstance(result, Committed):
            await self.reach(result.revision)
            return result.revision
        reasons = [guard.explain(found) for guard, found in result.failed]
        await self.reach(self._newest(result))
        raise next((error for error in reasons if isinstance(error, Deposed)), None) or (reasons or [Conflict("the store")])[0]

    async def read(self, key: bytes) -> kv_pb2.KeyValue | None:
        """Return what is under a key that is no record's, as the store has it now."""
        found = await self.etcd.range(rpc_pb2.RangeRequest(key=key))
        return found.kvs[0] if found.kvs else None

    async def reach(self, revision: int) -> None:
        """Return once everything up to `revision` is visible here. Raises Unavailable if that takes too long."""
        if self.revision >= revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._waiting, (revision, self._count, future))
        try:
            async with asyncio.timeout(_REACH_S):
                await future
        except TimeoutError as error:
            message = f"the cell's records are seen up to revision {self.revision}, not yet to {revision}"
            raise Unavailable("LEDGER_BEHIND", message, fix="try again in a second") from error

    def _newest(self, refused: Refused) -> int:
        """Return the revision of the newest record among what a refused change was guarded by, so that a retry sees it."""
        records = self.keys.raw("record/")
        seen = (item for found in refused.found.values() for item in found.items if item.key.startswith(records))
        return max((item.mod_revision for item in seen), default=0)

    def _apply(self, events: Iterable[kv_pb2.Event]) -> None:
        """Give each view its events, revision by revision, so that no callback sees half of a transaction."""
        for _revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
            by_table: dict[str, list[kv_pb2.Event]] = defaultdict(list)
            for event in group:
                by_table[self._table_of(event.kv.key)].append(event)
            for table, own in by_table.items():
                view = self._views.get(table)
                if view is not None:
                    view.apply(own)

    def _table_of(self, key: bytes) -> str:
        return self.keys.relative(key).split("/", 2)[1]

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        while self._waiting and self._waiting[0][0] <= self.revision:
            _revision, _count, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)


__all__ = ["INTENT", "STATUS", "Change", "Ledger", "View"]
