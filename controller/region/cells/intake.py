"""Turns facts of one cell into writes of the region's store: statuses as the cell said them, verdicts, ends, hosts and events.

A message is one batch, or several if it is long; the place to go on is written with the last one, so that what was not written
is said again. Everything here may therefore come twice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from controller.region.cells.shares import Own
from controller.region.events import Events
from controller.region.tables import Tables, by_kind
from kumo.api.cell.v1.cell_pb2 import Fact, Facts, Verdict
from kumo.log import get_logger
from kumo.store.errors import Conflict
from kumo.store.plane import Plane
from kumo.store.table import Table
from kumo.store.term import Term
from kumo.store.txn import Txn

log = get_logger(__name__)

# With what a fact and an event cost in operations, this stays well below etcd's limit of 128 in a transaction.
_FACTS_AT_ONCE = 20
_ATTEMPTS = 10


@dataclass(frozen=True)
class Heard:
    """All that one message says of one thing, in one value: the last status, the last verdict, and whether it ended."""

    uid: str
    facts: tuple[Fact, ...]

    @property
    def has_ended(self) -> bool:
        return any(fact.ended for fact in self.facts)

    @property
    def is_over(self) -> bool:
        """True if nothing of it is left in the cell, because it was to go or because the region took it back."""
        return self.has_ended or any(fact.verdict.answer == Verdict.WITHDRAWN for fact in self.facts)

    @property
    def last(self) -> Fact:
        return self.facts[-1]


class Intake:
    """Writes for one cell in one term."""

    def __init__(self, plane: Plane, tables: Tables, events: Events, term: Term, cell: str) -> None:
        self._plane, self._tables, self._events, self._term, self._cell = plane, tables, events, term, cell
        self._by_kind = by_kind(tables)

    async def take(self, facts: Facts) -> list[str]:
        """Keep all of `facts`; return the uids of the things whose end is recorded by now, to be acknowledged."""
        heard = _grouped(facts.facts)
        ended: list[str] = []
        batches = [heard[start : start + _FACTS_AT_ONCE] for start in range(0, len(heard), _FACTS_AT_ONCE)] or [[]]
        for number, batch in enumerate(batches, start=1):
            token = facts.resume_token if number == len(batches) else ""
            ended += await self._keep(batch, token)
        return ended

    async def drop_hosts_but(self, uids: Iterable[str]) -> None:
        """Forget copies of hosts of this cell that it did not name in a list of everything."""
        known = frozenset(uids)
        for host in await self._tables.hosts.find("cell", self._cell):
            if host.uid not in known:
                txn = self._plane.txn(fence=self._term)
                txn.delete(self._tables.hosts, host)
                await txn.commit()

    async def _keep(self, batch: Sequence[Heard], token: str) -> list[str]:
        for attempt in range(1, _ATTEMPTS + 1):
            txn = self._plane.txn(fence=self._term)
            ended = [heard.uid for heard in batch if await self._add(txn, heard)]
            if token:
                await self._add_token(txn, token)
            if not txn.changes.operations:
                return ended
            try:
                await txn.commit()
            except Conflict:
                # A placement or an end was written at the same time, in this very process.
                if attempt == _ATTEMPTS:
                    raise
                await self._plane.caught_up(await self._plane.revision())
                continue
            return ended
        raise AssertionError("the last attempt returns or raises")

    async def _add(self, txn: Txn, heard: Heard) -> bool:
        """Add what was heard of one thing; True if its end is to be acknowledged."""
        which = heard.last.WhichOneof("of")
        if which == "event":
            await self._add_event(txn, heard.last)
            return False
        if which == "host":
            await self._add_host(txn, heard)
            return False
        for table in [self._by_kind[which]] if which in self._by_kind else self._by_kind.values():
            parts = await table.parts(heard.uid)
            if parts is not None:
                self._add_thing(txn, table, heard, parts)
                return heard.is_over
        # Freed already, and the acknowledgement was lost; or of a time that the store does not remember.
        return heard.is_over

    def _add_thing(self, txn: Txn, table: Table[Any], heard: Heard, parts: Any) -> None:
        status = next((fact for fact in reversed(heard.facts) if fact.WhichOneof("of")), None)
        if status is not None and not heard.is_over:
            txn.write_status(table, heard.uid, _status_alone(getattr(status, str(status.WhichOneof("of")))))
        before = own = Own.of(parts.placement)
        for fact in heard.facts:
            if fact.HasField("verdict"):
                own = own.told(self._cell, fact.verdict)
        if heard.has_ended:
            own = own.ended(self._cell)
        if own != before:
            txn.write_placement(table, heard.uid, own.part(parts.intent))

    async def _add_event(self, txn: Txn, fact: Fact) -> None:
        if await self._tables.events.get_by_uid(fact.event.uid) is None:
            self._events.store(txn, fact.event)

    async def _add_host(self, txn: Txn, heard: Heard) -> None:
        hosts, told = self._tables.hosts, heard.last.host
        parts = await hosts.parts(heard.uid)
        if heard.has_ended:
            if parts is not None:
                txn.delete(hosts, parts.intent)
            return
        if not told.name:
            return
        told.status.cell_etag = told.etag
        if parts is None:
            txn.create(hosts, told)
            return
        intent: Any = parts.intent
        if intent.generation != told.generation or intent.HasField("delete_time") != told.HasField("delete_time"):
            txn.update_intent(hosts, intent, told, keep_generation=True)
        txn.write_status(hosts, told.uid, told)

    async def _add_token(self, txn: Txn, token: str) -> None:
        cell = await self._tables.cells.get(f"cells/{self._cell}")
        if cell is not None:
            cell.status.resume_token = token
            txn.write_status(self._tables.cells, cell.uid, cell)


def _grouped(facts: Iterable[Fact]) -> list[Heard]:
    """Return what was said of each thing together, since a transaction writes a key once; events are things of their own."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        uid = fact.event.uid if fact.WhichOneof("of") == "event" else fact.uid
        groups.setdefault(uid, []).append(fact)
    return [Heard(uid, tuple(group)) for uid, group in groups.items()]


def _status_alone(record: Message) -> Message:
    """Return the cell's status without what is the region's own, whatever the cell put there."""
    copy: Any = type(record)()
    copy.CopyFrom(record)
    if "placement" in copy.status.DESCRIPTOR.fields_by_name:
        copy.status.ClearField("placement")
    return copy  # type: ignore[no-any-return]  # a copy of the same type
