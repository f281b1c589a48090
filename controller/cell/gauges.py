"""Counts what a cell has, for /metrics, now and then: a scrape must cost nothing."""

from collections import Counter

from prometheus_client import Gauge

from controller.cell.cell import Cell
from kumo.api.fleet.v1.host_pb2 import Host

HOSTS = Gauge("kumo_cell_hosts", "Hosts of this cell, by their state.", ["state"])
SERVERS = Gauge("kumo_cell_servers", "Servers that this cell holds.")
WAITING = Gauge("kumo_cell_waiting_servers", "Servers that wait for room.")

_EVERY_S = 10.0
_STATES = ("JOINING", "UP", "DOWN")


async def run(cell: Cell) -> None:
    """Count for ever."""
    try:
        while True:
            count(cell)
            await cell.clock.sleep(_EVERY_S)
    finally:
        # Another leads now, and counts the same things.
        HOSTS.clear()
        SERVERS.set(0)
        WAITING.set(0)


def count(cell: Cell) -> None:
    states = Counter(Host.State.Name(host.status.state) for host in cell.records.hosts.all())
    for state in _STATES:
        HOSTS.labels(state).set(states[state])
    SERVERS.set(len(cell.records.servers.uids()))
    WAITING.set(len(cell.records.placements.find("waiting", "yes")))
