"""Streams what the cell says to the region: statuses, verdicts, ends, hosts and events, in the order of the store, from a token exactly.

A fact says what is so now of a thing, not what changed: several changes of one thing may be told as one.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError

from controller.cell.ledger import Ledger, View
from controller.cell.orders import Orders
from controller.cell.records import Records
from kumo.api.cell.v1.cell_pb2 import Fact, Facts, Verdict
from kumo.api.cell.v1.record_pb2 import FactsToken
from kumo.errors import Aborted, InvalidArgument
from kumo.store import ops
from kumo.store.errors import Compacted
from kumo.store.interface import Watch
from kumo.store.keys import INTENT, STATUS
from kumo.store.record import Etags

HEARTBEAT_S = 1.0
_BATCH = 200

_KINDS = ("server", "volume", "attachment", "port", "network", "image", "pool")


class FactFeed:
    """Makes facts of the records of a cell."""

    def __init__(self, ledger: Ledger, records: Records, orders: Orders) -> None:
        self._ledger, self._records, self._orders = ledger, records, orders
        self._etags = Etags(ledger.term.incarnation)

    async def stream(self, resume_token: str) -> AsyncGenerator[Facts, None]:
        """Yield all facts there are and `complete`, or what changed since the token; then every change, and one message a second.

        Ends that were not acknowledged are told again in any case: the region may have kept one, and its answer been lost.
        Raises Aborted RESUME_TOKEN_EXPIRED if what happened since the token is forgotten, or the store is another one.
        """
        if resume_token:
            revision = self._revision(resume_token)
            begin = iter(list(self._ends()))
        else:
            revision = self._ledger.revision
            begin = iter(list(self._all()))
        while batch := list(islice(begin, _BATCH)):
            yield Facts(facts=batch)
        if not resume_token:
            yield Facts(complete=True, resume_token=self._token(revision))
        prefix = self._ledger.keys.raw("record/")
        try:
            async with self._ledger.etcd.watch(prefix, ops.prefix_end(prefix), revision + 1) as watch:
                async for facts in self._follow(watch, revision):
                    yield facts
        except Compacted as error:
            raise _expired("history is forgotten") from error

    async def _follow(self, watch: Watch, revision: int) -> AsyncIterator[Facts]:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    batch = await anext(watch)
            except TimeoutError:
                yield Facts()
                continue
            revision = max(revision, batch.revision)
            keys = [event.kv.key for event in batch.events]
            await self._ledger.reach(max((event.kv.mod_revision for event in batch.events), default=0))
            facts = list(self._changed(keys))
            for start in range(0, len(facts), _BATCH):
                is_last = start + _BATCH >= len(facts)
                yield Facts(facts=facts[start : start + _BATCH], resume_token=self._token(revision) if is_last else "")

    def _changed(self, keys: Iterable[bytes]) -> Iterator[Fact]:
        """Yield a fact for each thing that these keys speak of, once, in their order."""
        told: dict[tuple[str, str], None] = {}
        for key in keys:
            pieces = self._ledger.keys.relative(key).split("/")
            if len(pieces) == 5:
                _record, table, _shard, uid, part = pieces
                if kind := self._subject(table, uid, part):
                    told[(kind, uid)] = None
        for kind, uid in told:
            fact = self._fact(kind, uid)
            if fact is not None:
                yield fact

    def _subject(self, table: str, uid: str, part: str) -> str:
        """Return of what kind the thing is that a changed key speaks of to the region, or "" if it says nothing to it."""
        if table in _KINDS:
            return table if part == STATUS else ""
        match table:
            case "placement":
                return "server"
            case "end":
                end = self._records.ends.get(uid)
                return end.kind if end is not None and not end.HasField("acknowledge_time") else ""
            case "host":
                return "host"
            case "event":
                return "event" if part == INTENT else ""
            case _:
                return ""

    def _all(self) -> Iterator[Fact]:
        for order in self._records.orders.all():
            fact = self._fact(order.kind, order.uid)
            if fact is not None:
                yield fact
        yield from self._ends()
        for kind, view in (("host", self._records.hosts), ("event", self._records.events)):
            for uid in view.uids():
                fact = self._fact(kind, uid)
                if fact is not None:
                    yield fact

    def _ends(self) -> Iterator[Fact]:
        for end in self._records.ends.all():
            fact = self._fact(end.kind, end.uid) if not end.HasField("acknowledge_time") else None
            if fact is not None:
                yield fact

    def _fact(self, kind: str, uid: str) -> Fact | None:
        """Return what is so of a thing; None if there is nothing to say of it (any more)."""
        if kind == "event":
            event = self._records.events.get(uid)
            return Fact(uid=uid, event=event) if event is not None else None
        if kind == "host":
            return self._host_fact(uid) or self._end_fact(uid)
        order = self._records.orders.get(uid)
        if order is None:
            return self._end_fact(uid)
        fact = Fact(uid=uid, generation=order.stamp.generation)
        if kind == "server":
            placement = self._records.placements.get(uid)
            if placement is not None and placement.HasField("verdict"):
                fact.verdict.CopyFrom(placement.verdict)
        _set(fact, kind, uid, self._orders.view(kind))
        return fact

    def _host_fact(self, uid: str) -> Fact | None:
        host = self._records.hosts.get(uid)
        if host is None:
            return None
        host.etag = self._etags.of(self._records.hosts.intent_revision(uid))
        return Fact(uid=uid, generation=host.generation, host=host)

    def _end_fact(self, uid: str) -> Fact | None:
        end = self._records.ends.get(uid)
        if end is None:
            return None
        fact = Fact(uid=uid, generation=end.stamp.generation, ended=not end.withdrawn)
        if end.withdrawn:
            fact.verdict.CopyFrom(Verdict(answer=Verdict.WITHDRAWN, cell_epoch=end.stamp.epoch.cell))
        # Any: each kind has a field of its name, whose message has a uid.
        of: Any = getattr(fact, end.kind)
        of.uid = uid
        return fact

    def _token(self, revision: int) -> str:
        token = FactsToken(incarnation=self._ledger.term.incarnation, revision=revision)
        return base64.urlsafe_b64encode(token.SerializeToString()).decode()

    def _revision(self, text: str) -> int:
        try:
            token = FactsToken.FromString(base64.urlsafe_b64decode(text))
        except (ValueError, binascii.Error, DecodeError) as error:
            raise InvalidArgument("RESUME_TOKEN_INVALID", "this is no token of a cell", field="resume_token") from error
        if token.incarnation != self._ledger.term.incarnation:
            raise _expired("the cell's store was restored since")
        return token.revision


def _expired(why: str) -> Aborted:
    return Aborted("RESUME_TOKEN_EXPIRED", f"the token leads back too far: {why}", fix="watch from the beginning")


def _set(fact: Fact, kind: str, uid: str, view: View[Any]) -> None:
    """Put the uid and the status of a thing into `fact`."""
    entry = view.entry(uid)
    of: Any = getattr(fact, kind)  # Any: as in _end_fact
    of.uid = uid
    if entry is not None and entry.status:
        of.MergeFromString(entry.status)
