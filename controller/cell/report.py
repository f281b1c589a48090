"""Writes statuses, each only when it differs from the one that is stored, together with the events that explain it."""

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.message import Message

from controller.cell.events import EventWriter, Happened, Subject
from controller.cell.ledger import INTENT, STATUS, Ledger, View
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.store.record import M, fields, serialized


class Reporter:
    """The one writer of statuses."""

    def __init__(self, ledger: Ledger, events: View[Event], source: str) -> None:
        self._ledger = ledger
        self.events = EventWriter(events, source)

    async def report(self, view: View[M], part: M, happened: Sequence[Happened], now: datetime) -> bool:
        """Store `part`, which has the uid and the status alone; return whether there was anything to store.

        Raises Conflict if the record changed since it was read here.
        """
        uid: str = _uid(part)
        entry = view.entry(uid)
        if entry is None or (entry.status == serialized(part) and not happened):
            return False
        change = self._ledger.change()
        change.guard(view.type, uid, INTENT, entry.intent_revision)
        change.put(part, STATUS, replaces=entry.status_revision)
        if happened:
            # The ledger finds nothing by its name, and so keeps none.
            subject = Subject(fields(view.type.FromString(entry.intent)).name, uid)
            for one in happened:
                self.events.add(change, subject, one, now)
        await self._ledger.commit(change)
        return True


def _uid(part: Message) -> str:
    return str(getattr(part, "uid"))  # noqa: B009  # no generated type can say that every record has a uid
