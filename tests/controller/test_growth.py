"""Creating and deleting for ever takes room for a while only: what is kept of things that are gone has its time, and then goes from the
store, from the agents and from the memory of the controllers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from controller.cell import ends, housekeeping
from controller.cell.plane import CellPlane
from controller.region import requests
from controller.region.sweep import Sweep
from kumo.api.cell.v1.record_pb2 import End
from kumo.api.network.v1 import network_pb2, port_pb2
from kumo.clock import SystemClock
from kumo.errors import Aborted, Unavailable
from kumo.ids import is_uid, new_uid
from kumo.store.client import Etcd, Patience
from tests.controller.cell.world import Cloud, RunningAgent
from tests.controller.region.cell_double import CellDouble
from tests.controller.region.region_process import PROJECT, Rig, Site, cell_listening, eventually, subnet_request
from tests.controller.test_whole import cloud as cloud  # noqa: PLC0414  # a fixture
from tests.controller.test_whole import furnish, region_of
from tests.controller.test_whole import whole_store as whole_store  # noqa: PLC0414
from tests.etcd import Cluster
from tests.pki import Pki
from tests.residents import grown, lengths
from tests.soak import count

SERVERS = count(16, 2_000)
PORTS = count(300, 100_000)
STAYING = 200
IN_FLIGHT = 16
MOST_RATIO = 1.2
# More than anything of what is gone is kept.
LATER = timedelta(days=8)
# What is bounded by a number, and is not full after so few: who asked last, the steps that watches of clients go on from, the stamps of
# the last volumes. And what is bounded by time: a timer stays until it is due, which is when the tombstone goes that it looks after.
BOUNDED = (
    *("kumo.origin._ASKED", "kumo.store.history.History._steps", "agent.storage.service.Storage._stamps", "kumo.loop.Loop._timers"),
    # A watch remembers what came last: what one transaction wrote.
    "kumo.store.interface.Batch.events",
)


@dataclass(frozen=True)
class Later(SystemClock):
    """The machine's clock, some days ahead."""

    ahead: timedelta = LATER

    def now(self) -> datetime:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead.total_seconds()


async def in_flight(number: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Do `work` for each number, some at a time."""
    left = iter(range(number))

    async def one_after_the_other() -> None:
        for index in left:
            await work(index)

    await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))


async def churn_servers(rig: Rig, number: int) -> None:
    async def make_and_delete(index: int) -> None:
        name = f"s{index}"
        await rig.api.create_server(name, request_id=new_uid())
        await rig.api.delete_server(name)
        await eventually(rig.is_gone(name), 120)

    await in_flight(number, make_and_delete)


async def sweep_region(rig: Rig) -> None:
    """Do what the region's leader does by itself, as if it were some days later."""
    region = rig.region
    term = region.plane.election.term
    assert term is not None
    sweep = Sweep(region.plane, region.tables.events, term, Later())
    swept = True
    while swept:
        # A table may show a deletion before that of events shows what was said of it; and the region's own sweep may be at work too,
        # so that one of the two leaves something for later.
        await region.plane.caught_up(await region.plane.revision())
        swept = bool(await sweep.sweep(Later().now()))
    await requests.sweep(region.plane, term, Later().now())


async def sweep_cell(plane: CellPlane) -> None:
    cell = replace(plane.leadership.term().cell, clock=Later())
    for uid in cell.records.ends.uids():
        await ends.sweep(cell, uid)
    await housekeeping.clean(cell)


def labels() -> set[str]:
    return {value for metric in REGISTRY.collect() for sample in metric.samples for value in sample.labels.values()}


def kept_files(agent: RunningAgent) -> dict[str, set[str]]:
    return {folder.name: {path.name for path in folder.iterdir()} for folder in (agent.state / "kept").iterdir() if folder.is_dir()}


async def until_at_rest(plane: CellPlane) -> None:
    async def is_acknowledged() -> bool:
        return all(end.HasField("acknowledge_time") for end in plane.leadership.term().cell.records.ends.all())

    await eventually(is_acknowledged, 60)


@pytest.mark.timeout(count(300, 4 * 3600))
async def test_servers_that_came_and_went_leave_nothing_in_stores_and_memory(cloud: Cloud) -> None:
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(cloud.agent(vcpus=64, memory_mib=65536))
        cell = await stack.enter_async_context(cloud.lead())
        rig = await stack.enter_async_context(region_of(cloud))
        await furnish(rig, agent)

        async def all_that_is_kept() -> tuple[set[str], set[str]]:
            await until_at_rest(cell)
            await sweep_region(rig)
            await sweep_cell(cell)
            return await cloud.all_keys(""), set(await rig.keys(""))

        await churn_servers(rig, IN_FLIGHT)
        before = await all_that_is_kept()
        resident = lengths(least=4)
        await churn_servers(rig, SERVERS)
        assert await all_that_is_kept() == before
        assert [one for one in grown(resident, by=SERVERS) if not one.startswith(BOUNDED)] == []

        assert [label for label in labels() if is_uid(label) or "/s1" in label] == [], "metrics know no single thing"

        async def all_tombstones_are_acknowledged() -> bool:
            kept = kept_files(agent)
            return all(kept[kind] <= kept[f"{kind}-ended"] for kind in ("servers", "ports"))

        await eventually(all_tombstones_are_acknowledged, 30)
        assert 0 < len(kept_files(agent)["servers"]) <= SERVERS + IN_FLIGHT, "each tombstone has its hour"
        assert list((agent.state / "guests" / "servers").iterdir()) == []
        assert list((agent.state / "guests" / "ports").iterdir()) == []
        assert [path for path in (agent.state / "consoles").iterdir() if path.is_file()] == []


async def test_a_cell_keeps_a_tombstone_until_an_hour_after_it_was_acknowledged(cloud: Cloud) -> None:
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(cloud.agent())
        cell = await stack.enter_async_context(cloud.lead())
        rig = await stack.enter_async_context(region_of(cloud))
        await furnish(rig, agent)
        await churn_servers(rig, 1)
        await until_at_rest(cell)
        now = cell.leadership.term().cell
        uids = now.records.ends.uids()
        assert len(uids) >= 4, "a server, its disk, its attachment, its port"
        for ahead, stays in ((timedelta(minutes=59), True), (timedelta(minutes=61), False)):
            later = replace(now, clock=Later(ahead))
            for uid in uids:
                assert (await ends.sweep(later, uid) is not None) == stays
            assert set(now.records.ends.uids()) == (set(uids) if stays else set())
        not_acknowledged = End(name="n", uid=new_uid(), kind="server")
        change = now.ledger.change()
        change.put(not_acknowledged, replaces=0)
        await now.ledger.commit(change)
        assert await ends.sweep(replace(now, clock=Later(timedelta(days=365))), not_acknowledged.uid) is None
        assert now.records.ends.uids() == [not_acknowledged.uid], "however long it takes"


@pytest.fixture
async def region(whole_store: Cluster, tmp_path: Path) -> AsyncIterator[Rig]:
    pki = Pki(tmp_path)
    cell = CellDouble()
    async with cell_listening(pki, cell) as address, Site(pki, whole_store.addresses, tmp_path, cell, address).running() as rig:
        network = network_pb2.Network(spec=network_pb2.Network.Spec())
        await rig.api.networks.CreateNetwork(network_pb2.CreateNetworkRequest(parent=PROJECT, network_id="wide", network=network))
        await rig.api.subnets.CreateSubnet(subnet_request("wide", "10.64.0.0/10", network="wide"))
        yield rig


async def create_port(rig: Rig, name: str) -> port_pb2.Port:
    port = port_pb2.Port(spec=port_pb2.Port.Spec(network=f"{PROJECT}/networks/wide"))
    request = port_pb2.CreatePortRequest(parent=PROJECT, port_id=name, port=port, request_id=new_uid())
    while True:
        try:
            made: port_pb2.Port = await rig.api.ports.CreatePort(request)
        except (Aborted, Unavailable):  # another one took the address at the same moment; or the machine is busy
            continue
        return made


async def size_at_rest(rig: Rig, store: Cluster) -> int:
    """Return the size of etcd's file once nothing is kept of what is gone."""

    async def is_settled() -> bool:
        return len(await rig.region.tables.ports.uids()) == STAYING

    await eventually(is_settled, 600)
    await sweep_region(rig)
    async with Etcd(store.addresses, patience=Patience(per_try_s=60.0, request_s=120.0)) as etcd:
        await etcd.compact(await rig.region.plane.revision(), physical=True)
        await etcd.defragment(store.addresses[0])
        (status,) = (await etcd.status()).values()
        return int(status.dbSize)


@pytest.mark.timeout(count(300, 4 * 3600))
async def test_the_store_is_as_small_as_before_after_many_creates_and_deletes(region: Rig, whole_store: Cluster) -> None:
    async def stay(index: int) -> None:
        await create_port(region, f"stays{index}")

    async def come_and_go(index: int) -> None:
        made = await create_port(region, f"goes{index}")
        await region.api.ports.DeletePort(port_pb2.DeletePortRequest(name=made.name))

    await in_flight(STAYING, stay)
    before = await size_at_rest(region, whole_store)
    keys = set(await region.keys(""))
    await in_flight(PORTS, come_and_go)
    after = await size_at_rest(region, whole_store)
    assert set(await region.keys("")) == keys
    print(f"etcd: {before} bytes before {PORTS} creates and deletes, {after} after")
    assert after <= MOST_RATIO * before
