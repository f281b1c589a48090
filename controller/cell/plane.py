"""Runs the plane of one cell in this process: its listener always, and all else while this process leads it. Wiring only."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import grpc

from controller.cell import ends, gauges, housekeeping
from controller.cell.acknowledgements import Acknowledgements
from controller.cell.agents import Agents
from controller.cell.cell import Cell
from controller.cell.compute.server.placer import Placer
from controller.cell.compute.server.reconciler import ServerReconciler
from controller.cell.facts import FactFeed
from controller.cell.fleet.host.reconciler import HostReconciler
from controller.cell.fleet.host.service import Hosts
from controller.cell.fleet.pool.reconciler import PoolReconciler
from controller.cell.image.image.reconciler import ImageReconciler
from controller.cell.leadership import Leadership, Term
from controller.cell.ledger import Ledger
from controller.cell.network.network.reconciler import NetworkReconciler
from controller.cell.network.port.reconciler import PortReconciler
from controller.cell.orders import Orders
from controller.cell.owners import Owners
from controller.cell.records import Records
from controller.cell.report import Reporter
from controller.cell.service import Intents
from controller.cell.session import Dial
from controller.cell.storage.attachment.reconciler import AttachmentReconciler
from controller.cell.storage.volume.audit import VolumeAudit
from controller.cell.storage.volume.reconciler import VolumeReconciler
from controller.cell.strangers import Strangers
from controller.cell.streams import Streams
from controller.cell.wakes import Loops, Wakes
from controller.config import CellConfig, Config, cell_prefix
from controller.store_version import require_supported
from kumo.api.cell.v1.cell_pb2_grpc import add_HostsServicer_to_server, add_IntentsServicer_to_server, add_StreamsServicer_to_server
from kumo.api.type.v1.stamp_pb2 import Term as WireTerm
from kumo.clock import Clock, SystemClock
from kumo.identity import REGION_PLANE, Identity
from kumo.lasting import lasting
from kumo.loop import Loop
from kumo.rpc.client import channel
from kumo.rpc.identity import PeerRule, Peers
from kumo.rpc.server import INTERNAL, Server
from kumo.store.client import Etcd
from kumo.store.errors import Conflict
from kumo.store.maintenance import Maintenance
from kumo.store.plane import Plane, Sources
from kumo.store.term import Term as StoreTerm
from kumo.tls import ServerTls, TlsFiles

FORMAT_VERSION = 1

GRACE_S = 2.0
_WORKERS = 16
_CONFLICTS = 4


async def run_cell(config: Config, own: CellConfig, *, started: asyncio.Event | None = None) -> None:
    """Serve the cell and lead it when elected, until cancelled; sets `started` once it listens."""
    tls = config.plane_tls("cell")
    clock = SystemClock()
    async with Etcd(own.store, config.store_tls("cell")) as etcd:
        await require_supported(etcd, lab=own.lab)
        plane = await Plane.open(etcd, cell_prefix(own.name), format_version=FORMAT_VERSION, sources=Sources(clock, random.Random()))
        async with plane, asyncio.TaskGroup() as tasks:
            if config.region_plane is None or config.region_plane.store != own.store:
                tasks.create_task(_maintenance(etcd, plane, config, clock).run())
            runner = CellPlane(own, plane, agent_dial(tls, own.name, config.region), clock)
            await runner.run(tls, config.region, lease_s=config.lease_s, started=started)


def _maintenance(etcd: Etcd, plane: Plane, config: Config, clock: Clock) -> Maintenance:
    """Where a full store lets nobody become leader, any controller makes room."""

    def is_leading() -> bool:
        return plane.election.is_leading

    def has_leader() -> bool:
        return plane.election.leader is not None

    return Maintenance(etcd, is_leading=is_leading, has_leader=has_leader, quota_bytes=config.store_quota_bytes, clock=clock)


def agent_dial(tls: TlsFiles, cell: str, region: str) -> Dial:
    """Return what opens channels to agents of a cell, each time with the certificate that is in the files then."""

    async def dial(address: str, host: str) -> grpc.aio.Channel:
        credentials = await asyncio.to_thread(tls.read)
        return channel(address, credentials, server_name=Identity(cell, region, "agent", host).dns)

    return dial


def at_once(reconcile: Callable[[str], Awaitable[float | None]]) -> Callable[[str], Awaitable[float | None]]:
    """Return `reconcile`, called again at once when something changed under it, which is no failure and no reason to wait."""

    async def reconcile_again(key: str) -> float | None:
        for _ in range(_CONFLICTS):
            try:
                return await reconcile(key)
            except Conflict:
                continue
        return await reconcile(key)

    return reconcile_again


class CellPlane:
    """One cell in one process."""

    def __init__(self, config: CellConfig, plane: Plane, dial: Dial, clock: Clock, rng: random.Random | None = None) -> None:
        self._config, self._plane, self._dial, self._clock = config, plane, dial, clock
        self._rng = rng or random.Random()
        self.leadership = Leadership(config.name, plane.election)

    async def run(
        self, tls: TlsFiles, region: str, *, lease_s: int, started: asyncio.Event | None = None, grace_s: float = GRACE_S
    ) -> None:
        """Listen and campaign, until cancelled; then calls in flight have `grace_s` to end."""
        server_tls = ServerTls(tls)
        peers = Peers([PeerRule(REGION_PLANE, region), PeerRule(self._config.name, region)])
        server = Server(self._config.listen, server_tls, peers, port=INTERNAL)
        server.add(add_IntentsServicer_to_server, Intents(self.leadership))
        server.add(add_HostsServicer_to_server, Hosts(self.leadership))
        server.add(add_StreamsServicer_to_server, Streams(self.leadership))
        await server.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(server_tls.run())
                campaign = self.campaign(self._config.advertise or server.address, lease_s)
                tasks.create_task(lasting("the election of the cell's leader", campaign))
                if started is not None:
                    started.set()
        finally:
            await server.stop(grace_s)

    async def campaign(self, address: str, lease_s: int) -> None:
        """Lead whenever elected, until cancelled."""
        await self._plane.election.run(address, self._lead, ttl_s=lease_s)

    async def _lead(self, term: StoreTerm) -> None:
        """Do everything that a leader does, until cancelled."""
        ledger = Ledger(self._plane.etcd, self._plane.keys, term, clock=self._clock, rng=self._rng)
        records = Records(ledger)
        await ledger.load()
        strangers = Strangers(records, self._clock)
        wakes = Wakes(records, strangers)
        wire_term = WireTerm(incarnation=term.incarnation, create_revision=term.create_revision)
        agents = Agents(records.hosts, self._dial, wire_term, self._clock, wakes, self._rng)
        strangers.follow(agents)
        reporter = Reporter(ledger, records.events, f"cells/{self._config.name}")
        cell = Cell(self._config.name, self._config.underlay_mtu, ledger, records, agents, strangers, reporter, self._clock)
        orders = Orders(ledger, records)
        placer = Placer(cell, wakes.wake_server)
        loops = self._loops(cell, placer)
        wakes.follow(loops, agents)
        placer.follow()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ledger.run())
                tasks.create_task(agents.run())
                tasks.create_task(housekeeping.run(cell))
                tasks.create_task(gauges.run(cell))
                for loop in loops.all():
                    tasks.create_task(loop.run())
                self.leadership.begin(Term(cell, orders, FactFeed(ledger, records, orders), loops))
        finally:
            self.leadership.end()

    def _loops(self, cell: Cell, placer: Placer) -> Loops:
        records, owners = cell.records, Owners(cell)

        def loop(name: str, reconcile: Callable[[str], Awaitable[float | None]], keys: Callable[[], Iterable[str]] = tuple) -> Loop:
            return Loop(name, at_once(reconcile), workers=_WORKERS, clock=self._clock, rng=self._rng, keys=keys)

        return Loops(
            servers=loop("servers", ServerReconciler(cell, placer, owners).reconcile, records.servers.uids),
            volumes=loop("volumes", VolumeReconciler(cell, owners).reconcile, records.volumes.uids),
            attachments=loop("attachments", AttachmentReconciler(cell).reconcile, records.attachments.uids),
            ports=loop("ports", PortReconciler(cell).reconcile, records.ports.uids),
            networks=loop("networks", NetworkReconciler(cell).reconcile, records.networks.uids),
            images=loop("images", ImageReconciler(cell).reconcile, records.images.uids),
            pools=loop("pools", PoolReconciler(cell).reconcile, records.pools.uids),
            hosts=loop("hosts", HostReconciler(cell).reconcile, records.hosts.uids),
            acknowledgements=loop("acknowledgements", Acknowledgements(cell).reconcile),
            ends=loop("ends", partial(ends.sweep, cell), records.ends.uids),
            audits=loop("audits", VolumeAudit(cell).reconcile, records.pools.uids),
        )
