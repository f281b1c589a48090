"""Region, cell and agent together, with the drivers that ship as fakes: the stories of one server from the API down and back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kumo.api.compute.v1 import flavor_pb2, server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1 import event_pb2, host_pb2, pool_pb2
from kumo.api.image.v1 import image_pb2
from kumo.api.network.v1 import network_pb2
from kumo.errors import Error
from kumo.ids import new_uid
from tests.controller.cell.world import CELL, Cloud, Region
from tests.controller.region.cell_double import CellDouble
from tests.controller.region.region_process import PROJECT, SMALL, Rig, Site, eventually, subnet_request
from tests.etcd import Cluster, cluster, free_ports
from tests.pki import Pki

SIZE = 1 << 20


@pytest.fixture
def whole_store() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def cloud(whole_store: Cluster, tmp_path: Path) -> Cloud:
    pki = Pki(tmp_path)
    port = free_ports(1)[0]
    region = Region(f"127.0.0.1:{port}", pki.files("region", "controller"))
    return Cloud(pki, tmp_path, whole_store.addresses, f"/kumo/cell/{CELL}-{new_uid()}", port, region)


@asynccontextmanager
async def region_of(cloud: Cloud) -> AsyncIterator[Rig]:
    folder = cloud.folder / "region"
    folder.mkdir(exist_ok=True)
    site = Site(cloud.pki, cloud.etcd_addresses, folder, CellDouble(name=CELL), f"127.0.0.1:{cloud.port}")
    async with site.running() as rig:
        yield rig


@asynccontextmanager
async def whole(cloud: Cloud, *, memory_mib: int = 4096) -> AsyncIterator[tuple[Rig, Any]]:
    """Run all three; what they keep outlives the block."""
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(cloud.agent(memory_mib=memory_mib))
        await stack.enter_async_context(cloud.lead())
        rig = await stack.enter_async_context(region_of(cloud))
        yield rig, agent


async def furnish(rig: Rig, agent: Any) -> None:
    api = rig.api
    await heard(rig)
    await api.pools.CreatePool(
        pool_pb2.CreatePoolRequest(pool_id="main", pool=pool_pb2.Pool(spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.FAKE, default=True)))
    )
    spec = host_pb2.Host.Spec(cell=CELL, agent_address=agent.address, tunnel_address="127.0.0.1", storage_address="127.0.0.1")
    await api.hosts.CreateHost(host_pb2.CreateHostRequest(host_id="h1", host=host_pb2.Host(spec=spec)))
    await api.flavors.CreateFlavor(flavor_pb2.CreateFlavorRequest(flavor_id="small", flavor=flavor_pb2.Flavor(spec=SMALL)))
    network = network_pb2.Network(spec=network_pb2.Network.Spec())
    await api.networks.CreateNetwork(network_pb2.CreateNetworkRequest(parent=PROJECT, network_id="net", network=network))
    await api.subnets.CreateSubnet(subnet_request("sub", "10.0.0.0/24"))
    await eventually(host_is_up(rig), 20)
    image = image_pb2.Image(spec=image_pb2.Image.Spec(format=image_pb2.Image.RAW, size_bytes=SIZE))
    made = await api.images.CreateImage(image_pb2.CreateImageRequest(parent=PROJECT, image_id="deb", image=image))

    async def pieces() -> AsyncIterator[image_pb2.UploadImageRequest]:
        yield image_pb2.UploadImageRequest(name=made.name)
        for offset in range(0, SIZE, SIZE // 4):
            yield image_pb2.UploadImageRequest(offset=offset, data=b"\0" * (SIZE // 4))

    answers = [answer async for answer in api.images.UploadImage(pieces())]
    assert answers[-1].received_bytes == SIZE
    await eventually(rig.image_is_active(made.name), 20)


def host_is_up(rig: Rig) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        host = await rig.api.hosts.GetHost(host_pb2.GetHostRequest(name="hosts/h1"))
        return bool(host.status.state == host_pb2.Host.UP)

    return check


async def heard(rig: Rig) -> None:
    async def check() -> bool:
        cell = await rig.region.tables.cells.get(f"cells/{CELL}")
        return cell is not None and cell.status.state == type(cell).HEARD

    await eventually(check, 20)


def state(rig: Rig, name: str, wanted: "Server.State.ValueType") -> Awaitable[None]:
    return eventually(rig.state_is(name, wanted), 20)


def verb(kind: str, name: str, **fields: Any) -> Any:
    return getattr(server_pb2, f"{kind}ServerRequest")(name=f"{PROJECT}/servers/{name}", **fields)


async def test_a_server_lives_through_all_that_can_be_asked_of_it_and_leaves_nothing(cloud: Cloud) -> None:
    async with whole(cloud) as (rig, agent):
        await furnish(rig, agent)
        idle, cell_keys = await rig.usage(), await cloud.keys()
        made = await rig.api.create_server("web", user_data=b"#!/bin/sh")
        await state(rig, "web", Server.ACTIVE)
        shown = await rig.api.server("web")
        assert shown.status.host == "hosts/h1"
        assert [address.port for address in shown.status.addresses] == [made.spec.nics[0].port]
        await rig.api.servers.StopServer(verb("Stop", "web"))
        await state(rig, "web", Server.STOPPED)
        await rig.api.servers.StartServer(verb("Start", "web"))
        await state(rig, "web", Server.ACTIVE)
        await rig.api.servers.RebootServer(verb("Reboot", "web", mode=server_pb2.REBOOT_MODE_HARD))
        await state(rig, "web", Server.ACTIVE)
        assert (await rig.api.server("web")).status.reboots == 1
        await rig.api.delete_server("web")
        await eventually(rig.is_gone("web"), 20)
        assert {kind: amount for kind, amount in (await rig.usage()).items() if amount} == idle

        network = await rig.api.networks.GetNetwork(network_pb2.GetNetworkRequest(name=f"{PROJECT}/networks/net"))

        async def nothing_left() -> bool:
            # A network that was carried once stays with the cell until it is deleted.
            return not [key for key in await cloud.keys() - cell_keys if network.uid not in key]

        await eventually(nothing_left, 20)
        request = event_pb2.ListEventsRequest(parent=PROJECT, filter=f'subject_uid = "{made.uid}"')
        reasons = [event.reason for event in (await rig.api.events.ListEvents(request)).events]
        assert reasons[0] == "CREATED"
        assert reasons[-1] == "DELETED"


async def test_what_is_asked_for_goes_on_where_all_controllers_died_in_the_middle(cloud: Cloud) -> None:
    async with whole(cloud) as (rig, agent):
        await furnish(rig, agent)
        port = agent.address.rpartition(":")[2]
        await rig.api.create_server("web")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(cloud.agent(port=int(port)))
        await stack.enter_async_context(cloud.lead())
        async with region_of(cloud) as rig:
            await state(rig, "web", Server.ACTIVE)
            await rig.api.delete_server("web")
        async with region_of(cloud) as rig:
            await eventually(rig.is_gone("web"), 20)
            assert await rig.keys("address/") == []


async def test_a_server_without_room_waits_with_reasons_for_each_audience_and_is_placed_when_there_is_some(cloud: Cloud) -> None:
    async with whole(cloud, memory_mib=1024) as (rig, agent):
        await furnish(rig, agent)
        big = flavor_pb2.Flavor(spec=flavor_pb2.Flavor.Spec(vcpus=1, memory_mib=300, disk_gib=1))
        await rig.api.flavors.CreateFlavor(flavor_pb2.CreateFlavorRequest(flavor_id="big", flavor=big))
        room = 0
        while await fits(rig, f"s{room}"):
            room += 1
        late = f"s{room}"
        assert room >= 1
        said = next(one for one in (await rig.api.server(late)).status.conditions if one.type == "Placed")
        assert said.operator_message
        assert "1 host" in said.operator_message
        assert "host" not in said.message
        await rig.api.delete_server("s0")
        await state(rig, late, Server.ACTIVE)
        assert not await waits(rig, late)


async def fits(rig: Rig, name: str) -> bool:
    """Create a server; return whether it was placed, once it is known."""
    await rig.api.create_server(name, flavor="flavors/big")

    async def is_decided() -> bool:
        return (await rig.api.server(name)).status.state == Server.ACTIVE or await waits(rig, name)

    await eventually(is_decided, 20)
    return not await waits(rig, name)


async def waits(rig: Rig, name: str) -> bool:
    return any(one.type == "Placed" and one.reason == "NO_ROOM" for one in (await rig.api.server(name)).status.conditions)


async def test_a_silent_cell_refuses_changes_of_hosts_within_a_second(cloud: Cloud) -> None:
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(cloud.agent())
        cell = AsyncExitStack()
        await cell.enter_async_context(cloud.lead())
        rig = await stack.enter_async_context(region_of(cloud))
        await furnish(rig, agent)
        await cell.aclose()

        async def is_stale() -> bool:
            host = await rig.api.hosts.GetHost(host_pb2.GetHostRequest(name="hosts/h1"))
            return any(one.type == "Fresh" for one in host.status.conditions)

        await eventually(is_stale, 20)
        async with asyncio.timeout(1.0):
            with pytest.raises(Error) as refused:
                await rig.api.hosts.DeleteHost(host_pb2.DeleteHostRequest(name="hosts/h1"))
        assert refused.value.code == "UNAVAILABLE"
        async with cloud.lead():
            await heard(rig)
