"""The region's plane of one process: its store, its listener with every public service, and its part in the election. Wiring alone."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from controller.config import Config, RegionConfig, region_prefix
from controller.region.cells.forward import Forward
from controller.region.cells.link import Links
from controller.region.compute.consoles import Consoles
from controller.region.compute.flavor import Flavors
from controller.region.compute.server import Servers
from controller.region.events import Events
from controller.region.fleet.event import EventsService
from controller.region.fleet.host import Hosts
from controller.region.fleet.pool import Pools
from controller.region.identity.project import Projects, ensure
from controller.region.image.image import Images
from controller.region.lead import Leader
from controller.region.network.network import Networks
from controller.region.network.port import Ports
from controller.region.network.subnet import Subnets
from controller.region.silence import Silences
from controller.region.standard import Region
from controller.region.storage.attachment import Attachments
from controller.region.storage.volume import Volumes
from controller.region.tables import FORMAT_VERSION, Tables
from controller.store_version import require_supported
from kumo.api.compute.v1 import flavor_pb2_grpc, server_pb2_grpc
from kumo.api.fleet.v1 import event_pb2_grpc, host_pb2_grpc, pool_pb2_grpc
from kumo.api.identity.v1 import project_pb2_grpc
from kumo.api.image.v1 import image_pb2_grpc
from kumo.api.network.v1 import network_pb2_grpc, port_pb2_grpc, subnet_pb2_grpc
from kumo.api.storage.v1 import attachment_pb2_grpc, volume_pb2_grpc
from kumo.clock import Clock, SystemClock
from kumo.identity import REGION_PLANE
from kumo.lasting import lasting
from kumo.log import get_logger
from kumo.rpc.identity import PrincipalOf, everyone_is_operator
from kumo.rpc.server import Server
from kumo.store.client import Etcd
from kumo.store.maintenance import Maintenance
from kumo.store.plane import Plane, Sources
from kumo.store.usage import Usage
from kumo.tls import ServerTls, TlsFiles

log = get_logger(__name__)


@dataclass
class Started:
    """What a test or the process learns when the plane answers: where, and how to reach its inside."""

    address: str
    region: Region


async def run_region(
    config: Config,
    plane_config: RegionConfig,
    *,
    principal_of: PrincipalOf = everyone_is_operator,
    clock: Clock | None = None,
    store_tls: TlsFiles | None = None,
    started: "asyncio.Future[Started] | None" = None,
) -> None:
    """Serve until cancelled. Raises kumo.errors for a store or a listener that cannot be used."""
    clock = clock or SystemClock()
    tls = ServerTls(config.plane_tls(REGION_PLANE), require_client=False)
    async with Etcd(plane_config.store, store_tls) as etcd:
        await require_supported(etcd, lab=plane_config.lab)
        plane = await Plane.open(etcd, region_prefix(config.region), format_version=FORMAT_VERSION, sources=Sources(clock, random.Random()))
        tables = Tables(plane)
        silences = Silences(tables.cells)
        region = Region(plane, tables, Events(tables.events, clock), Usage(plane), silences)
        links = Links(config.region, plane_config.cells, config.plane_tls(REGION_PLANE))
        server = Server(plane_config.listen, tls, principal_of)
        _offer(server, region, Forward(links, silences))
        async with plane, asyncio.TaskGroup() as tasks:
            try:
                await plane.caught_up()
                await ensure(plane, tables.projects)
                await server.start()
                if started is not None:
                    started.set_result(Started(server.address, region))
                leader = Leader(region, links, clock)
                tasks.create_task(_maintenance(etcd, plane, config, clock).run())
                tasks.create_task(tls.run())
                election = plane.election.run(plane_config.advertise or server.address, leader.lead, ttl_s=config.lease_s)
                tasks.create_task(lasting("the election of the region's leader", election))
                await asyncio.Future()
            finally:
                await server.stop()
                await links.close()


def _maintenance(etcd: Etcd, plane: Plane, config: Config, clock: Clock) -> Maintenance:
    """Where a full store lets nobody become leader, any controller makes room."""

    def is_leading() -> bool:
        return plane.election.is_leading

    return Maintenance(etcd, is_leading=is_leading, has_leader=is_leading, quota_bytes=config.store_quota_bytes, clock=clock)


def _offer(server: Server, region: Region, forward: Forward) -> None:
    """One line a noun. The servicers make their standard methods themselves, which the generated classes cannot know."""
    services: list[tuple[Any, Any]] = [
        (project_pb2_grpc.add_ProjectsServicer_to_server, Projects(region)),
        (flavor_pb2_grpc.add_FlavorsServicer_to_server, Flavors(region)),
        (image_pb2_grpc.add_ImagesServicer_to_server, Images(region, forward)),
        (network_pb2_grpc.add_NetworksServicer_to_server, Networks(region)),
        (subnet_pb2_grpc.add_SubnetsServicer_to_server, Subnets(region)),
        (port_pb2_grpc.add_PortsServicer_to_server, Ports(region)),
        (server_pb2_grpc.add_ServersServicer_to_server, Servers(region, Consoles(forward))),
        (volume_pb2_grpc.add_VolumesServicer_to_server, Volumes(region)),
        (attachment_pb2_grpc.add_AttachmentsServicer_to_server, Attachments(region)),
        (pool_pb2_grpc.add_PoolsServicer_to_server, Pools(region)),
        (host_pb2_grpc.add_HostsServicer_to_server, Hosts(region, forward)),
        (event_pb2_grpc.add_EventsServicer_to_server, EventsService(region)),
    ]
    for add, servicer in services:
        server.add(add, servicer)
