"""Keeps what would only grow within bounds: events by age and by number for each subject, request ids by age."""

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
MOST_AGE = timedelta(days=7)
_EVERY_S = 600.0
_AT_ONCE = 20


class Sweep:
    """Works in one term, now and then; what becomes too many in between is swept when its subject gets the next event."""

    def __init__(self, plane: Plane, events: Table[Event], term: Term, clock: Clock) -> None:
        self._plane, self._events, self._term, self._clock = plane, events, term, clock

    async def run(self) -> None:
        while True:
            try:
                await self.sweep(self._clock.now())
                await requests.sweep(self._plane, self._term, self._clock.now())
            except Unavailable as error:
                log.warning("sweep put off", reason=error.reason, why=error.message)
            await self._clock.sleep(_EVERY_S)

    async def sweep(self, now: datetime) -> int:
        """Remove events that are too old or too many; return how many those were."""
        subjects: dict[str, list[Event]] = {}
        for uid in await self._events.uids():
            event = await self._events.get_by_uid(uid)
            if event is not None:
                subjects.setdefault(event.subject_uid, []).append(event)
        going = [event for of_one in subjects.values() for event in _too_many(of_one)]
        kept = {event.uid for event in going}
        going += [
            event
            for of_one in subjects.values()
            for event in of_one
            if event.uid not in kept and now - event.create_time.ToDatetime(UTC) > MOST_AGE
        ]
        for start in range(0, len(going), _AT_ONCE):
            await self._remove(going[start : start + _AT_ONCE])
        return len(going)

    async def _remove(self, events: list[Event]) -> None:
        txn = self._plane.txn(fence=self._term)
        for event in events:
            txn.delete(self._events, event)
        try:
            await txn.commit()
        except Conflict as error:
            log.info("events left for later", why=error.message)


def _too_many(events: list[Event]) -> list[Event]:
    """Return the oldest ones above the cap; uids are in the order of time."""
    ordered = sorted(events, key=lambda event: event.uid)
    return ordered[: max(0, len(ordered) - MOST_OF_A_SUBJECT)]
