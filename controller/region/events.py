"""Writes events with the change that they explain. Which are kept how long is controller.region.sweep's."""

from datetime import datetime
from typing import Any

from controller.region.access import SYSTEM_PROJECT
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.clock import Clock
from kumo.ids import new_uid
from kumo.names import join, project_of
from kumo.origin import remember
from kumo.rpc.call import CALL
from kumo.store.table import Table
from kumo.store.txn import Txn

INFO, WARNING = Event.INFO, Event.WARNING
_SOURCE = "region"


class Events:
    """Adds events to transactions."""

    def __init__(self, table: Table[Event], clock: Clock) -> None:
        self._table, self._clock = table, clock

    def now(self) -> datetime:
        return self._clock.now()

    def add(
        self,
        txn: Txn,
        subject: Any,
        reason: str,
        message: str,
        *,
        severity: "Event.Severity.ValueType" = INFO,
        fix: str = "",
        operator_message: str = "",
    ) -> None:
        """Have `txn` say that this happened to `subject`, a record with name and uid."""
        call = CALL.get()
        event = Event(
            subject=subject.name,
            subject_uid=subject.uid,
            severity=severity,
            reason=reason,
            message=message,
            fix=fix,
            operator_message=operator_message,
            request_id=call.request_id if call is not None else "",
            source=_SOURCE,
        )
        remember(subject.uid, event.request_id)
        self.store(txn, event)

    def store(self, txn: Txn, event: Event) -> None:
        """Have `txn` keep `event`, with the name and uid that it brings, or new ones, which are in the order of time."""
        if not event.uid:
            event.uid = new_uid()
        event.name = event_name(event.subject, event.uid)
        if not event.HasField("create_time"):
            event.create_time.FromDatetime(self.now())
        txn.create(self._table, event)


def event_name(subject: str, uid: str) -> str:
    return join(project_of(subject) or SYSTEM_PROJECT, "events", uid)
