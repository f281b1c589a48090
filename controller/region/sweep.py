"""Keeps what would only grow within bounds: events by age, by number for each subject and for all that is gone, request ids by age."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from controller.region import requests
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.clock import Clock
from kumo.errors import Unavailable
from kumo.log import get_logger
from kumo.store.errors import Conflict
from kumo.store.plane import Plane
from kumo.store.table import Table
from kumo.store.term import Term

log = get_logger(__name__)

MOST_OF_A_SUBJECT = 50
# Of all things together that are no more: without it, what comes and goes quickly would fill the store within its age.
MOST_OF_GONE = 10_000
MOST_AGE = timedelta(days=7)
GONE = "DELETED"
_EVERY_S = 600.0
_LOOK_S = 15.0
_AT_ONCE = 20
_READ_AT_ONCE = 500


class Sweep:
    """Works in one term, now and then; what becomes too many in between is swept when its subject gets the next event."""

    def __init__(self, plane: Plane, events: Table[Event], term: Term, clock: Clock) -> None:
        self._plane, self._events, self._term, self._clock = plane, events, term, clock
        self._kept = 0

    async def run(self) -> None:
        """Sweep now and then, and as soon as there is much to sweep."""
        due_at = self._clock.monotonic()
        while True:
            try:
                if (is_due := self._clock.monotonic() >= due_at) or len(await self._events.uids()) > self._kept + MOST_OF_GONE:
                    await self.sweep(self._clock.now())
                if is_due:
                    await requests.sweep(self._plane, self._term, self._clock.now())
                    due_at = self._clock.monotonic() + _EVERY_S
            except Unavailable as error:
                log.warning("sweep put off", reason=error.reason, why=error.message)
            await self._clock.sleep(_LOOK_S)

    async def sweep(self, now: datetime) -> int:
        """Remove events that are too old or too many; return how many those were."""
        events = []
        for uid in await self._events.uids():
            if (event := await self._events.get_by_uid(uid)) is not None:
                events.append(event)
            if not len(events) % _READ_AT_ONCE:
                await asyncio.sleep(0)  # others want the loop too
        going = to_remove(events, now)
        for start in range(0, len(going), _AT_ONCE):
            await self._remove(going[start : start + _AT_ONCE])
        self._kept = len(events) - len(going)
        return len(going)

    async def _remove(self, events: list[Event]) -> None:
        txn = self._plane.txn(fence=self._term)
        for event in events:
            txn.delete(self._events, event)
        try:
            await txn.commit()
        except Conflict as error:
            log.info("events left for later", why=error.message)


def to_remove(events: Iterable[Event], now: datetime) -> list[Event]:
    """Return what is not to be kept, the oldest first: what is too old, too many of one thing, or too many of things that are gone."""
    subjects: dict[str, list[Event]] = {}
    # uids are in the order of time.
    for event in sorted(events, key=lambda event: event.uid):
        subjects.setdefault(event.subject_uid, []).append(event)
    going: dict[str, Event] = {}
    gone: list[Event] = []
    for of_one in subjects.values():
        too_many = max(0, len(of_one) - MOST_OF_A_SUBJECT)
        too_old = (event for event in of_one if now - event.create_time.ToDatetime(UTC) > MOST_AGE)
        going |= {event.uid: event for event in (*of_one[:too_many], *too_old)}
        if any(event.reason == GONE for event in of_one):
            gone += [event for event in of_one if event.uid not in going]
    gone.sort(key=lambda event: event.uid)
    going |= {event.uid: event for event in gone[: max(0, len(gone) - MOST_OF_GONE)]}
    return sorted(going.values(), key=lambda event: event.uid)
