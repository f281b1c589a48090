"""Makes events, and keeps so many of each thing and none for too long. They are written with the change that they explain."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.cell.ledger import Change, View
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.ids import new_uid

MOST_OF_A_THING = 50
MOST_AGE = timedelta(days=7)

INFO, WARNING = Event.INFO, Event.WARNING


@dataclass(frozen=True)
class Happened:
    """What an event says; whom it is about and when come in when it is written."""

    reason: str
    message: str
    severity: Event.Severity.ValueType = INFO
    fix: str = ""
    operator_message: str = ""


@dataclass(frozen=True)
class Subject:
    name: str
    uid: str


class EventWriter:
    """Adds events to changes. `source` says which part of the cloud speaks."""

    def __init__(self, events: View[Event], source: str) -> None:
        self._events, self._source = events, source

    def add(self, change: Change, subject: Subject, happened: Happened, now: datetime) -> None:
        """Add one event to `change`, and take out the oldest of the same thing when it has too many."""
        uid = new_uid()
        event = Event(
            name=f"{_parent(subject.name)}/events/{uid}",
            uid=uid,
            subject=subject.name,
            subject_uid=subject.uid,
            severity=happened.severity,
            reason=happened.reason,
            message=happened.message,
            fix=happened.fix,
            operator_message=happened.operator_message,
            source=self._source,
        )
        event.create_time.FromDatetime(now)
        change.append(event)
        # uids are in the order of time.
        held = sorted(one.uid for one in self._events.find("subject", subject.uid))
        for old in held[: max(0, len(held) + 1 - MOST_OF_A_THING)]:
            change.remove(Event, old)


def _parent(name: str) -> str:
    """Return the parent of the events of a thing: its project, or that of the fleet."""
    parts = name.split("/")
    return f"projects/{parts[1]}" if parts[0] == "projects" else "projects/system"
