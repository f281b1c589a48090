"""Takes the region's commands: refuses what is behind, stores the rest in one transaction. The work follows by reconcilers.

What the cell holds of a thing is its order: the stamp, and what is internal. A thing that ended refuses what is not ahead of its end.
"""

import asyncio
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.message import Message

from controller.cell.ledger import Change, Ledger, View
from controller.cell.records import Ordered, Records
from kumo.api.cell.v1.cell_pb2 import ApplyIntentRequest
from kumo.api.cell.v1.record_pb2 import End, Obeyed, Order
from kumo.api.type.v1.stamp_pb2 import Stamp, Term
from kumo.errors import InvalidArgument
from kumo.log import get_logger
from kumo.stamps import behind, epoch_order, refusal, term_order
from kumo.store.keys import Keys, shard
from kumo.store.record import intent_of, serialized

log = get_logger(__name__)

_REGION = "region"


def user_data_key(keys: Keys, server_uid: str) -> bytes:
    """User data is no record: nobody but the agent of its host ever needs it, and it may be large."""
    return keys.raw(f"user-data/{shard(server_uid)}/{server_uid}")


@dataclass(frozen=True)
class _Asked:
    """A command, taken apart: `intent` is stored as the record of the thing."""

    kind: str
    intent: Ordered
    order: Order
    user_data: bytes


class Orders:
    """The region's commands, one about a thing at a time."""

    def __init__(self, ledger: Ledger, records: Records) -> None:
        self._ledger, self._records = ledger, records
        self._views: dict[str, View[Any]] = {
            "server": records.servers,
            "volume": records.volumes,
            "attachment": records.attachments,
            "port": records.ports,
            "network": records.networks,
            "image": records.images,
            "pool": records.pools,
        }
        self._locks: dict[str, tuple[asyncio.Lock, int]] = defaultdict(lambda: (asyncio.Lock(), 0))
        self._obeying = asyncio.Lock()

    @property
    def largest_term(self) -> Term:
        """The largest term of the region that was obeyed; an empty one before the first."""
        obeyed = self._records.obeyed.get(_REGION)
        return obeyed.term if obeyed is not None else Term()

    def view(self, kind: str) -> View[Any]:
        return self._views[kind]

    async def obey(self, term: Term) -> None:
        """Return when no lesser term is obeyed any more. Raises FailedPrecondition STALE_COMMAND if a greater one was."""
        self.check_term(term)
        if term_order(term) == term_order(self.largest_term):
            return
        async with self._obeying:
            self.check_term(term)
            change = self._ledger.change()
            change.put(Obeyed(name=_REGION, uid=_REGION, term=term), replaces=self._records.obeyed.intent_revision(_REGION))
            await self._ledger.commit(change)
            log.info("region obeyed", incarnation=term.incarnation, create_revision=term.create_revision)

    def check_term(self, term: Term) -> None:
        if term_order(term) < term_order(self.largest_term):
            raise refusal("cell", "term", Stamp(term=term), None, self.largest_term)

    async def apply(self, request: ApplyIntentRequest) -> Stamp:
        """Store a command and return the stamp that is held then. Raises FailedPrecondition STALE_COMMAND if another is ahead."""
        asked = _take_apart(request)
        lock, users = self._locks[request.uid]
        self._locks[request.uid] = (lock, users + 1)
        try:
            async with lock:
                return await self._store(request, asked)
        finally:
            lock, users = self._locks.pop(request.uid)
            if users > 1:
                self._locks[request.uid] = (lock, users - 1)

    async def _store(self, request: ApplyIntentRequest, asked: _Asked) -> Stamp:
        order, end = self._records.orders.get(request.uid), self._records.ends.get(request.uid)
        held = order.stamp if order is not None else end.stamp if end is not None else None
        number = behind(request.stamp, held, self.largest_term)
        if number is not None:
            raise refusal("cell", number, request.stamp, held, self.largest_term)
        await self.obey(request.stamp.term)
        if order is None and end is not None and not _begins_anew(request, end):
            if request.withdrawn or asked.intent.HasField("delete_time"):
                return end.stamp
            raise refusal("cell", "end", request.stamp, held, self.largest_term)
        change = self._ledger.change()
        view = self._views[asked.kind]
        if end is not None:
            change.delete(End, request.uid, replaces=self._records.ends.intent_revision(request.uid))
        entry = view.entry(request.uid)
        if entry is None or entry.intent != serialized(asked.intent):
            change.put(asked.intent, replaces=view.intent_revision(request.uid))
        if order is None or order != asked.order:
            change.put(asked.order, replaces=self._records.orders.intent_revision(request.uid))
        self._add_user_data(change, asked, order)
        if not change.is_empty:
            await self._ledger.commit(change)
        return request.stamp

    def _add_user_data(self, change: Change, asked: _Asked, before: Order | None) -> None:
        if asked.user_data and (before is None or before.user_data_sha256 != asked.order.user_data_sha256):
            change.changes.put(user_data_key(self._ledger.keys, asked.order.uid), asked.user_data)


def _begins_anew(request: ApplyIntentRequest, end: End) -> bool:
    """Return whether the region gives us again what it had taken back."""
    return end.withdrawn and not request.withdrawn and epoch_order(request.stamp.epoch) > epoch_order(end.stamp.epoch)


def _take_apart(request: ApplyIntentRequest) -> _Asked:
    kind = request.WhichOneof("order")
    if kind is None:
        raise InvalidArgument("ORDER_MISSING", "the command says nothing of what the thing shall be", field="order")
    # Any: every *Order has a field named as its kind, and every noun has a name and a uid.
    wrapped: Any = getattr(request, kind)
    intent = cast(Ordered, intent_of(cast(Message, getattr(wrapped, kind))))
    if intent.uid != request.uid:
        raise InvalidArgument("UID_MISMATCH", f"the command is about {request.uid} and its {kind} is {intent.uid}", field=f"{kind}.uid")
    order = Order(name=intent.name, uid=request.uid, kind=kind, stamp=request.stamp, withdrawn=request.withdrawn)
    user_data = b""
    if kind == "server":
        order.project_uid = request.server.project_uid
        user_data = request.server.user_data
        order.user_data_sha256 = hashlib.sha256(user_data).digest() if user_data else b""
    elif kind == "network":
        order.subnets.extend(request.network.subnets)
    return _Asked(kind, intent, order, user_data)
