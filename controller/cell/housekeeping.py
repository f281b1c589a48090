"""Forgets what has had its time: events of a certain age, and answers to requests after a day."""

from datetime import datetime, timedelta

from controller.cell.cell import Cell
from controller.cell.events import MOST_AGE
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.errors import Unavailable
from kumo.log import get_logger
from kumo.store.loader import load_range
from kumo.store.v1.values_pb2 import Request

log = get_logger(__name__)

REQUEST_AGE = timedelta(hours=24)
_EVERY_S = 600.0
# etcd takes 128 operations at once.
_AT_ONCE = 100


async def run(cell: Cell) -> None:
    """Clean up now and then, for ever."""
    while True:
        try:
            await clean(cell)
        except Unavailable as error:
            log.warning("housekeeping put off", reason=error.reason, why=error.message)
        await cell.clock.sleep(_EVERY_S)


async def clean(cell: Cell) -> None:
    old = [event for event in cell.records.events.all() if _is_older(event.create_time.ToDatetime(cell.now().tzinfo), cell, MOST_AGE)]
    for start in range(0, len(old), _AT_ONCE):
        change = cell.ledger.change()
        for event in old[start : start + _AT_ONCE]:
            change.remove(Event, event.uid)
        await cell.ledger.commit(change)
    items = await load_range(cell.ledger.etcd, cell.ledger.keys.raw("request/"))
    stale = [item.key for item in items if _is_older(Request.FromString(item.value).time.ToDatetime(cell.now().tzinfo), cell, REQUEST_AGE)]
    for start in range(0, len(stale), _AT_ONCE):
        change = cell.ledger.change()
        for key in stale[start : start + _AT_ONCE]:
            change.changes.delete(key)
        await cell.ledger.commit(change)


def _is_older(moment: datetime, cell: Cell, age: timedelta) -> bool:
    return moment < cell.now() - age
