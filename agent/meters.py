"""Says what each server of this host takes: processor, memory, disks, network; asks the guests nothing. Its own page of metrics.

The labels are uids, as many as there are guests here, and series end with their server: so this is a page beside the process's own
metrics, which know no single thing, and is scraped or left alone on its own.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.compute.driver import Hypervisor, Usage
from agent.network import names
from agent.network.driver import Driver, Traffic
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest
from kumo.errors import Error
from kumo.log import get_logger

log = get_logger(__name__)

PATH = "/metrics/servers"


class Meters:
    """The page PATH of an agent."""

    def __init__(self, hypervisor: Hypervisor, network: Driver, servers: Callable[[], Mapping[str, ApplyServerRequest]]) -> None:
        """`servers` returns what shall be on this host, by uid."""
        self._hypervisor, self._network, self._servers = hypervisor, network, servers

    async def exposition(self) -> bytes:
        """Return the text as Prometheus reads it. What cannot be asked now is left out, and a series that ends says so by that."""
        try:
            usages, traffic = await asyncio.gather(self._hypervisor.usage(), self._network.traffic())
        except (Error, OSError) as error:
            log.warning("servers not measured", why=str(error))
            return b""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Measured(list(families(usages, traffic, self._servers()))))
        return await asyncio.to_thread(generate_latest, registry)


class _Measured(Collector):
    """What was found, as the library wants it."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def families(usages: Iterable[Usage], traffic: Mapping[str, Traffic], servers: Mapping[str, ApplyServerRequest]) -> Iterator[Metric]:
    """Yield every series of the servers that run and shall be here; disks and ports are named by their uids."""
    labels = ["server", "project"]
    cpu = CounterMetricFamily("kumo_server_cpu_seconds", "Processor time that the server's process took.", labels=labels)
    memory = GaugeMetricFamily("kumo_server_memory_bytes", "Memory of the host that the server's process holds.", labels=labels)
    disks = _counters("disk", "volume", "read_bytes", "reads", "written_bytes", "writes")
    ports = _counters("network", "port", "received_bytes", "received_packets", "sent_bytes", "sent_packets")
    for usage in usages:
        if usage.uid not in servers or not servers[usage.uid].HasField("desired"):
            continue
        desired = servers[usage.uid].desired
        whose = [usage.uid, desired.project_uid]
        cpu.add_metric(whose, usage.cpu_s)
        memory.add_metric(whose, usage.memory_bytes)
        for wanted, disk in zip(desired.disks, usage.disks, strict=False):
            _add(disks, [*whose, wanted.volume_uid], (disk.read_bytes, disk.read_count, disk.written_bytes, disk.write_count))
        for nic in desired.nics:
            if (seen := traffic.get(names.tap(nic.port_uid))) is not None:
                counts = (seen.received_bytes, seen.received_packets, seen.sent_bytes, seen.sent_packets)
                _add(ports, [*whose, nic.port_uid], counts)
    yield from (cpu, memory, *disks, *ports)


def _counters(part: str, label: str, *what: str) -> list[CounterMetricFamily]:
    words = {one: f"{one.replace('_', ' ').capitalize()} of one {label} of the server." for one in what}
    return [CounterMetricFamily(f"kumo_server_{part}_{one}", words[one], labels=["server", "project", label]) for one in what]


def _add(counters: list[CounterMetricFamily], labels: list[str], counts: tuple[int, ...]) -> None:
    for counter, count in zip(counters, counts, strict=True):
        counter.add_metric(labels, count)
