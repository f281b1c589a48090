"""Records that a thing is gone: everything about it leaves the store, and a tombstone stays until the region acknowledged it."""

import math
from collections.abc import Iterable
from datetime import timedelta

from google.protobuf.message import Message

from controller.cell.cell import Cell
from controller.cell.ledger import INTENT, STATUS, Change, View
from kumo.api.cell.v1.record_pb2 import End, Order
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.store.record import M

KEPT = timedelta(hours=1)
# Twice as long as any command may be under way: a clock that is put forward must not make an end forget what refuses late ones.
_AT_LEAST_S = 120.0


def add_end(cell: Cell, change: Change, view: View[M], uid: str, *, withdrawn: bool) -> None:
    """Add to `change` that the thing goes and that its end is kept."""
    entry = view.entry(uid)
    order = cell.records.orders.get(uid)
    if entry is None or order is None:
        return
    change.delete(view.type, uid, INTENT, replaces=entry.intent_revision)
    if entry.status_revision:
        change.delete(view.type, uid, STATUS, replaces=entry.status_revision)
    change.delete(Order, uid, INTENT, replaces=cell.records.orders.intent_revision(uid))
    end = End(
        name=order.name,
        uid=uid,
        kind=order.kind,
        stamp=order.stamp,
        withdrawn=withdrawn,
        server_uid=_server_of(view.type.FromString(entry.intent)),
    )
    end.end_time.FromDatetime(cell.now())
    change.put(end, replaces=cell.records.ends.intent_revision(uid))


def _server_of(thing: Message) -> str:
    match thing:
        case Port() | Attachment():
            return thing.spec.server_uid
        case Volume():
            return thing.owner_uid
        case _:
            return ""


async def finish(cell: Cell, view: View[M], uid: str, *, withdrawn: bool) -> None:
    """Record the end of a thing of which nothing else is kept."""
    change = cell.ledger.change()
    add_end(cell, change, view, uid, withdrawn=withdrawn)
    if not change.is_empty:
        await cell.ledger.commit(change)


async def acknowledge(cell: Cell, uids: Iterable[str]) -> None:
    """Note that the region recorded these ends; those that are not kept are passed over."""
    for uid in uids:
        end = cell.records.ends.get(uid)
        if end is None or end.HasField("acknowledge_time"):
            continue
        end.acknowledge_time.FromDatetime(cell.now())
        cell.acknowledged_at[uid] = cell.clock.monotonic()
        change = cell.ledger.change()
        change.put(end, replaces=cell.records.ends.intent_revision(uid))
        await cell.ledger.commit(change)


async def sweep(cell: Cell, uid: str) -> float | None:
    """Forget an end that was acknowledged an hour ago, with the events of the thing; return in how many seconds to look again."""
    end = cell.records.ends.get(uid)
    if end is None or not end.HasField("acknowledge_time"):
        return None
    left_s = (end.acknowledge_time.ToDatetime(cell.now().tzinfo) + KEPT - cell.now()).total_seconds()
    left_s = max(left_s, cell.acknowledged_at.get(uid, -math.inf) + _AT_LEAST_S - cell.clock.monotonic())
    if left_s > 0:
        # Looked at again within the time that is kept, also if the clock was put back meanwhile.
        return min(left_s, KEPT.total_seconds()) + 0.1
    cell.acknowledged_at.pop(uid, None)
    change = cell.ledger.change()
    change.delete(End, uid, INTENT, replaces=cell.records.ends.intent_revision(uid))
    events: list[Message] = list(cell.records.events.find("subject", uid))
    for event in events:
        change.remove(Event, str(getattr(event, "uid")))  # noqa: B009  # see report.py
    await cell.ledger.commit(change)
    return None
