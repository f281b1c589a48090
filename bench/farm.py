"""A whole cloud on fake hosts for the benchmarks of size: etcd, one controller with both planes, and one process with all the hosts."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kumo.api.compute.v1 import flavor_pb2, server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1 import host_pb2, pool_pb2
from kumo.api.network.v1 import network_pb2
from kumo.rpc.client import channel
from tests.agent.fleet import Fleet, running_fleet
from tests.controller.planes.processes import CELL, REGION, store_files, until, until_answering, write_tls
from tests.controller.planes.work import create_host, patiently, upload
from tests.controller.region.region_process import PROJECT, SMALL, Api, subnet_request
from tests.etcd import cluster, free_ports
from tests.pki import Pki

ROOT = Path(__file__).parents[1]
AT_ONCE = 64
# The smallest page is one; a thousand is the largest.
PAGE = 1000
# Every port is told to all hosts of its network: a tenant has a few servers on each.
NETWORKS = 500


@dataclass
class Farm:
    """`controller`, `store` and `others` are pids: of what answers, of etcd, and of the rest."""

    api: Api
    address: str
    pki: Pki
    fleet: Fleet
    controller: int
    store: int
    others: list[int]

    async def add_hosts(self, hosts: Sequence[str]) -> None:
        """Have these hosts of the fleet join, and wait until all of them are UP."""
        addresses = self.fleet.addresses
        await each_of(hosts, lambda host: create_host(self.api, host, addresses[host]))

        async def all_up() -> bool:
            answer = await self.api.hosts.ListHosts(host_pb2.ListHostsRequest(page_size=PAGE))
            up = {host.name for host in answer.hosts if host.status.state == host_pb2.Host.UP}
            return all(f"hosts/{host}" in up for host in hosts)

        await until(all_up, 180.0, "the hosts are UP")

    async def furnish(self) -> None:
        """Make all that servers need; needs a host that is UP."""
        pool = pool_pb2.Pool(spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.FAKE, default=True))
        await self.api.pools.CreatePool(pool_pb2.CreatePoolRequest(pool_id="main", pool=pool))
        await self.api.flavors.CreateFlavor(flavor_pb2.CreateFlavorRequest(flavor_id="small", flavor=flavor_pb2.Flavor(spec=SMALL)))
        for number in range(NETWORKS):
            network = network_pb2.CreateNetworkRequest(
                parent=PROJECT, network_id=f"net-{number}", network=network_pb2.Network(spec=network_pb2.Network.Spec())
            )
            await self.api.networks.CreateNetwork(network)
            await self.api.subnets.CreateSubnet(subnet_request(f"sub-{number}", "10.0.0.0/16", f"net-{number}"))
        await upload(self.api, self.api, "deb")

    async def create_servers(self, first: int, end: int) -> None:
        """Create the servers from number `first` until before `end` in one project, 64 of them in flight."""

        async def create(number: str) -> None:
            await self.api.create_server(f"s{number}", nics=[{"network": f"{PROJECT}/networks/net-{int(number) % NETWORKS}"}])

        await each_of([str(number) for number in range(first, end)], create)

    async def until_active(self, wanted: int, deadline_s: float = 600.0) -> None:
        """Return once so many servers are ACTIVE."""

        async def all_active() -> bool:
            found = [server.status.state for server in await self.servers()]
            return len(found) >= wanted and found.count(Server.ACTIVE) >= wanted

        await until(lambda: _slowly(all_active), deadline_s, f"{wanted} servers are ACTIVE")

    async def host_count(self) -> int:
        return len((await self.api.hosts.ListHosts(host_pb2.ListHostsRequest(page_size=PAGE))).hosts)

    async def server_count(self) -> int:
        return len(await self.servers())

    async def servers(self) -> list[Server]:
        found: list[Server] = []
        token = ""
        while True:
            request = server_pb2.ListServersRequest(parent=PROJECT, page_size=PAGE, page_token=token)
            answer = await patiently(partial(self.api.servers.ListServers, request))
            found += answer.servers
            token = answer.next_page_token
            if not token:
                return found


async def _slowly(check: Callable[[], Awaitable[bool]]) -> bool:
    """Ask seldom: the answers are large."""
    await asyncio.sleep(0.5)
    return await check()


async def each_of(items: Sequence[str], work: Callable[[str], Awaitable[object]], at_once: int = AT_ONCE) -> None:
    """Have `work` done for each item, in order, `at_once` of them at a time."""
    left = iter(items)

    async def one_after_another() -> None:
        for item in left:
            await work(item)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(one_after_another())


@asynccontextmanager
async def farm(folder: Path, hosts: int, *, apart: bool = False) -> AsyncIterator[Farm]:
    """Run everything; no host has joined yet.

    `apart`: each plane in a process of its own, and one more controller of the region, which answers the clients and does not lead.
    """
    pki = Pki(folder / "pki")
    pki.folder.mkdir()
    server = store_files(folder)
    write_tls(pki, folder, "c1")
    write_tls(pki, folder, "c2")
    region, cell, second = (f"127.0.0.1:{port}" for port in free_ports(3))
    async with AsyncExitStack() as stack:
        members = stack.enter_context(cluster(tls=server)).members
        store, others = members[0].address, []
        cell_plane = f'[cell_plane]\nname = "{CELL}"\nlisten = "{cell}"\nstore = ["{store}"]\n'
        answers, host = region, "c1"
        if apart:
            for planes in (cell_plane, _region_plane(region, store, cell)):
                others.append(await stack.enter_async_context(_controller(folder, "c1", planes)))
            answers, host = second, "c2"
            async with _dialled(pki, region, "c1") as api:
                await until_answering(api)  # so that it leads
            cell_plane = ""
        process = await stack.enter_async_context(_controller(folder, host, _region_plane(answers, store, cell) + cell_plane))
        fleet = await stack.enter_async_context(running_fleet(folder, pki, hosts))
        api = await stack.enter_async_context(_dialled(pki, answers, host))
        await until_answering(api)
        assert fleet.process is not None
        yield Farm(api, answers, pki, fleet, process, members[0].pid, [*others, fleet.process.pid])


def _region_plane(listen: str, store: str, cell: str) -> str:
    return f'[region_plane]\nlisten = "{listen}"\nstore = ["{store}"]\n[region_plane.cells.{CELL}]\nc1 = "{cell}"\n'


@asynccontextmanager
async def _dialled(pki: Pki, address: str, host: str) -> AsyncIterator[Api]:
    name = pki.identity("region", "controller", host).dns
    async with channel(address, pki.root.cert_pem, server_name=name) as made:
        yield Api(made)


@asynccontextmanager
async def _controller(folder: Path, host: str, planes: str) -> AsyncIterator[int]:
    """Run a controller with these sections, and yield its pid."""
    config = Path(tempfile.mkstemp(suffix=".toml", dir=folder)[1])
    own = f'region = "{REGION}"\nhost = "{host}"\ntls = "{folder}/{host}"\nmetrics = "127.0.0.1:0"\nlog_level = "WARNING"\n'
    config.write_text(own + planes)  # noqa: ASYNC240  # a few bytes, before anything runs
    with config.with_suffix(".log").open("wb") as log:
        command = ("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "controller.main", "--config", str(config))
        # As deploy starts it.
        environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=log, stdin=asyncio.subprocess.DEVNULL, env=environment)
    try:
        yield process.pid
    finally:
        process.kill()
        await process.wait()
