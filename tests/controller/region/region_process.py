"""A region for tests: a real store, a real listener with TLS, and a cell double behind real cell.v1; started and ended in the loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from controller.config import Config, RegionConfig
from controller.region.plane import Started, run_region
from controller.region.standard import Region
from kumo.api.cell.v1 import cell_pb2_grpc
from kumo.api.compute.v1 import flavor_pb2, flavor_pb2_grpc, server_pb2, server_pb2_grpc
from kumo.api.fleet.v1 import event_pb2_grpc, host_pb2_grpc, pool_pb2, pool_pb2_grpc
from kumo.api.identity.v1 import project_pb2_grpc
from kumo.api.image.v1 import image_pb2, image_pb2_grpc
from kumo.api.network.v1 import network_pb2, network_pb2_grpc, port_pb2_grpc, subnet_pb2, subnet_pb2_grpc
from kumo.api.storage.v1 import attachment_pb2_grpc, volume_pb2_grpc
from kumo.errors import NotFound
from kumo.rpc.client import channel
from kumo.rpc.identity import PeerRule, Peers, PrincipalOf, everyone_is_operator
from kumo.rpc.server import INTERNAL, Server
from kumo.tls import TlsFiles
from tests.controller.region.cell_double import CellDouble
from tests.pki import Pki

PROJECT = "projects/default"
WAIT_S = 10.0
SMALL = flavor_pb2.Flavor.Spec(vcpus=1, memory_mib=64, disk_gib=1)


@dataclass
class Api:
    """Stubs of every public service."""

    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        # The stubs of one channel; Any, because the stub classes are one for both kinds of channels.
        self.projects: Any = project_pb2_grpc.ProjectsStub(self.channel)
        self.flavors: Any = flavor_pb2_grpc.FlavorsStub(self.channel)
        self.images: Any = image_pb2_grpc.ImagesStub(self.channel)
        self.networks: Any = network_pb2_grpc.NetworksStub(self.channel)
        self.subnets: Any = subnet_pb2_grpc.SubnetsStub(self.channel)
        self.ports: Any = port_pb2_grpc.PortsStub(self.channel)
        self.servers: Any = server_pb2_grpc.ServersStub(self.channel)
        self.volumes: Any = volume_pb2_grpc.VolumesStub(self.channel)
        self.attachments: Any = attachment_pb2_grpc.AttachmentsStub(self.channel)
        self.pools: Any = pool_pb2_grpc.PoolsStub(self.channel)
        self.hosts: Any = host_pb2_grpc.HostsStub(self.channel)
        self.events: Any = event_pb2_grpc.EventsStub(self.channel)

    async def server(self, name: str) -> server_pb2.Server:
        made: server_pb2.Server = await self.servers.GetServer(server_pb2.GetServerRequest(name=f"{PROJECT}/servers/{name}"))
        return made

    async def create_server(self, name: str, **fields: Any) -> server_pb2.Server:
        made: server_pb2.Server = await self.servers.CreateServer(server_request(name, **fields))
        return made

    async def delete_server(self, name: str) -> server_pb2.Server:
        gone: server_pb2.Server = await self.servers.DeleteServer(server_pb2.DeleteServerRequest(name=f"{PROJECT}/servers/{name}"))
        return gone


@dataclass
class Rig:
    """A running region with its cell."""

    api: Api
    region: Region
    cell: CellDouble
    address: str

    async def furnish(self) -> None:
        """Make what a server needs: a pool, a flavor, an image that is ACTIVE, a network with a subnet."""
        api = self.api
        await api.pools.CreatePool(
            pool_pb2.CreatePoolRequest(pool_id="main", pool=pool_pb2.Pool(spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.FAKE, default=True)))
        )
        await api.flavors.CreateFlavor(flavor_pb2.CreateFlavorRequest(flavor_id="small", flavor=flavor_pb2.Flavor(spec=SMALL)))
        await api.networks.CreateNetwork(
            network_pb2.CreateNetworkRequest(parent=PROJECT, network_id="net", network=network_pb2.Network(spec=network_pb2.Network.Spec()))
        )
        await api.subnets.CreateSubnet(subnet_request("sub", "10.0.0.0/24"))
        await self.add_image("deb")

    async def add_image(self, name: str) -> None:
        image = image_pb2.Image(spec=image_pb2.Image.Spec(format=image_pb2.Image.RAW, size_bytes=8))
        made = await self.api.images.CreateImage(image_pb2.CreateImageRequest(parent=PROJECT, image_id=name, image=image))

        async def pieces() -> AsyncIterator[image_pb2.UploadImageRequest]:
            yield image_pb2.UploadImageRequest(name=made.name)
            yield image_pb2.UploadImageRequest(offset=0, data=b"12345678")

        async for _ in self.api.images.UploadImage(pieces()):
            pass
        await eventually(self.image_is_active(made.name))

    def image_is_active(self, name: str) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            image = await self.api.images.GetImage(image_pb2.GetImageRequest(name=name))
            return bool(image.status.state == image_pb2.Image.ACTIVE)

        return check

    def state_is(self, name: str, state: "server_pb2.Server.State.ValueType") -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            server = await self.api.server(name)
            return server.status.state == state and server.status.observed_generation == server.generation

        return check

    def is_gone(self, name: str) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            try:
                await self.api.server(name)
            except NotFound:
                return True
            return False

        return check

    async def usage(self) -> dict[str, int]:
        project = await self.region.tables.projects.get(PROJECT)
        assert project is not None
        return await self.region.usage.of(project.uid)

    async def keys(self, prefix: str) -> list[str]:
        return [self.region.plane.keys.relative(item.key) for item in await self.region.plane.scan(prefix)]


def server_request(name: str, **fields: Any) -> server_pb2.CreateServerRequest:
    nics = fields.pop("nics", [{"network": f"{PROJECT}/networks/net"}])
    outer = {key: fields.pop(key) for key in ("request_id", "validate_only") if key in fields}
    labels = fields.pop("labels", {})
    fields = {"flavor": "flavors/small", "image": f"{PROJECT}/images/deb"} | fields
    spec = server_pb2.Server.Spec(nics=[server_pb2.Server.Nic(**nic) for nic in nics], **fields)
    server = server_pb2.Server(spec=spec, labels=labels)
    return server_pb2.CreateServerRequest(parent=PROJECT, server_id=name, server=server, **outer)


def subnet_request(name: str, cidr: str, network: str = "net", **fields: Any) -> subnet_pb2.CreateSubnetRequest:
    subnet = subnet_pb2.Subnet(spec=subnet_pb2.Subnet.Spec(network=f"{PROJECT}/networks/{network}", cidr=cidr, **fields))
    return subnet_pb2.CreateSubnetRequest(parent=PROJECT, subnet_id=name, subnet=subnet)


async def eventually(check: Callable[[], Awaitable[bool]], timeout_s: float = WAIT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not await check():  # noqa: ASYNC110  # what is waited for lies behind an API or in another process
            await asyncio.sleep(0.01)


@dataclass
class Site:
    """Where regions of one name can be started again and again: certificates, store, cell."""

    pki: Pki
    store: list[str]
    folder: Path
    cell: CellDouble
    cell_address: str

    def config(self) -> tuple[Config, RegionConfig]:
        files = TlsFiles.in_folder(self.folder, "region")
        files.write(self.pki.root.cert_pem, self.pki.pem(self.pki.identity("region", "controller")))
        plane = RegionConfig(listen="127.0.0.1:0", store=self.store, cells={self.cell.name: {"h1": self.cell_address}})
        return Config(region=self.pki.region, host="h1", tls=self.folder, metrics="127.0.0.1:0", region_plane=plane, lease_s=2), plane

    @asynccontextmanager
    async def running(self, principal_of: PrincipalOf = everyone_is_operator) -> AsyncIterator[Rig]:
        config, plane = self.config()
        started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        running = asyncio.ensure_future(run_region(config, plane, principal_of=principal_of, started=started))
        both: list[asyncio.Future[Any]] = [started, running]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        try:
            at = started.result()
            name = self.pki.identity("region", "controller").dns
            async with channel(at.address, self.pki.root.cert_pem, server_name=name) as to_region:
                yield Rig(Api(to_region), at.region, self.cell, at.address)
        finally:
            running.cancel()
            await asyncio.wait([running])
            # A region that failed by itself has to fail the test.
            if not running.cancelled() and (failed := running.exception()) is not None:
                raise failed


@asynccontextmanager
async def cell_listening(pki: Pki, cell: CellDouble) -> AsyncIterator[str]:
    rule = PeerRule("region", pki.region)
    server = Server("127.0.0.1:0", pki.server_tls(cell.name, "controller"), Peers([rule]), port=INTERNAL)
    server.add(cell_pb2_grpc.add_IntentsServicer_to_server, cell)
    server.add(cell_pb2_grpc.add_HostsServicer_to_server, cell)
    server.add(cell_pb2_grpc.add_StreamsServicer_to_server, cell)
    async with server:
        yield server.address
