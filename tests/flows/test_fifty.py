"""Fifty servers at once, with room for hardly more: exactly fifty run, whatever is killed meanwhile, and no host holds more than it can."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from kumo.api.compute.v1 import flavor_pb2, server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.ids import new_uid
from tests.agent.fleet import Fleet, running_fleet
from tests.controller.planes.processes import Planes, planes, until
from tests.controller.planes.work import furnish, patiently
from tests.controller.region.region_process import PROJECT, Api, server_request
from tests.soak import count

SERVERS = count(50, 500)
# 16 virtual CPUs may be used for each that a host offers.
HELD_BY_A_HOST = 4
FLAVOR = flavor_pb2.Flavor.Spec(vcpus=4, memory_mib=64, disk_gib=1)
HOSTS = SERVERS // HELD_BY_A_HOST + 1
DEADLINE_S = 90.0


@pytest.fixture(scope="module")
async def cloud(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Planes, Fleet]]:
    """Two controllers of each plane, and a fleet with room for two servers more than will be asked for."""
    folder = tmp_path_factory.mktemp("fifty")
    async with planes(folder) as made, running_fleet(folder, made.pki, HOSTS, vcpus=1) as fleet:
        await furnish(made.apis["c1"], made.apis["c2"], fleet.addresses)
        await made.api.flavors.CreateFlavor(flavor_pb2.CreateFlavorRequest(flavor_id="four", flavor=flavor_pb2.Flavor(spec=FLAVOR)))
        yield made, fleet


@pytest.mark.parametrize("killed", ["leaders", "fleet"])
async def test_fifty_servers_created_at_once_are_fifty_whatever_is_killed(cloud: tuple[Planes, Fleet], killed: str) -> None:
    made, fleet = cloud
    leaders = [await made.leader(plane) for plane in ("region", "cell")]
    api = made.apis[(await made.follower("region")).host]
    creates = asyncio.gather(*(create(made, f"{killed}-{number}") for number in range(SERVERS)))
    with watching(fleet) as most:
        await until(partial(some_run, fleet), what="some run")
        if killed == "fleet":
            await fleet.end()
            await fleet.start()
        else:
            for leader in leaders:
                await leader.end()
        await creates
        await until(partial(all_are, api, SERVERS), DEADLINE_S, "all are ACTIVE")
    if killed == "leaders":
        for leader in leaders:
            await leader.start()
    on_hosts = [host for host, uids in guests(fleet).items() for _ in uids]
    assert len(on_hosts) == SERVERS
    assert set(Counter(on_hosts).values()) <= set(range(1, HELD_BY_A_HOST + 1))
    assert most() <= HELD_BY_A_HOST
    listed = await servers(api)
    assert {server.uid for server in listed} == {uid for uids in guests(fleet).values() for uid in uids}
    await asyncio.gather(*(patiently(partial(made.api.delete_server, f"{killed}-{number}")) for number in range(SERVERS)))
    await until(partial(all_are, api, 0), DEADLINE_S, "all are gone")
    assert not any(guests(fleet).values())
    assert await made.cell_keys("record/claim/", "") == {}


async def create(made: Planes, name: str) -> None:
    """Ask as a client does: of any controller, again under the same id if there was no answer."""
    request = server_request(name, flavor="flavors/four", request_id=new_uid())
    apis = itertools.cycle(made.apis.values())
    await patiently(lambda: next(apis).servers.CreateServer(request, timeout=10.0), DEADLINE_S)


async def servers(api: Api) -> list[Server]:
    answer = await api.servers.ListServers(server_pb2.ListServersRequest(parent=PROJECT, page_size=1000))
    return list(answer.servers)


async def all_are(api: Api, wanted: int) -> bool:
    """Return whether there are exactly so many servers, and each is ACTIVE."""
    found = await servers(api)
    return len(found) == wanted and all(server.status.state == Server.ACTIVE for server in found)


async def some_run(fleet: Fleet) -> bool:
    return sum(len(uids) for uids in guests(fleet).values()) >= SERVERS // 10


def guests(fleet: Fleet) -> dict[str, list[str]]:
    """Return the servers that are defined on each host, by what its hypervisor keeps."""
    return {host: list(_kept(fleet.config.state / host / "hypervisor.json")) for host in fleet.config.hosts()}


def _kept(file: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(file.read_text())["servers"] if file.exists() else {}
    return found


@contextmanager
def watching(fleet: Fleet) -> Iterator["Most"]:
    """Look all the time at how many servers the fullest host has."""
    most = Most(fleet)
    looking = asyncio.ensure_future(most.look())
    try:
        yield most
    finally:
        looking.cancel()


class Most:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._most = 0

    def __call__(self) -> int:
        return self._most

    async def look(self) -> None:
        while True:
            self._most = max([self._most, *(len(uids) for uids in guests(self._fleet).values())])
            await asyncio.sleep(0.1)
