"""Counts what a cell has, for /metrics, now and then: a scrape must cost nothing."""

from collections import Counter

from prometheus_client import Gauge

from controller.cell.cell import Cell
from kumo.api.fleet.v1.host_pb2 import Host

HOSTS = Gauge("kumo_cell_hosts", "Hosts of this cell, by their state.", ["state"])
SERVERS = Gauge("kumo_cell_servers", "Servers that this cell holds.")
WAITING = Gauge("kumo_cell_waiting_servers", "Servers that wait for room.")
# Of all hosts together: no label names a host, of which there may be thousands.
VCPUS = Gauge("kumo_cell_vcpus", "Processors of this cell's hosts, and virtual ones that are claimed on them.", ["kind"])
MEMORY = Gauge("kumo_cell_memory_bytes", "Memory of this cell's hosts, and how much of it is claimed.", ["kind"])
HEARTBEAT_AGE = Gauge("kumo_cell_heartbeat_age_seconds", "How long ago the agent that is silent longest was heard.")

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
        VCPUS.clear()
        MEMORY.clear()
        HEARTBEAT_AGE.set(0)


def count(cell: Cell) -> None:
    hosts = list(cell.records.hosts.all())
    states = Counter(Host.State.Name(host.status.state) for host in hosts)
    for state in _STATES:
        HOSTS.labels(state).set(states[state])
    SERVERS.set(len(cell.records.servers.uids()))
    WAITING.set(len(cell.records.placements.find("waiting", "yes")))
    for kind, vcpus, memory_mib in (
        ("capacity", sum(host.status.vcpus for host in hosts), sum(host.status.memory_mib for host in hosts)),
        ("claimed", sum(host.status.claimed_vcpus for host in hosts), sum(host.status.claimed_memory_mib for host in hosts)),
    ):
        VCPUS.labels(kind).set(vcpus)
        MEMORY.labels(kind).set(memory_mib << 20)
    now = cell.clock.monotonic()
    heard = [session.silent_since if session.heard_at is None else session.heard_at for session in cell.agents.all()]
    HEARTBEAT_AGE.set(max((now - at for at in heard), default=0.0))
