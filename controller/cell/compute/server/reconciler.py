"""Makes one server what it shall be: reads, has plan() decide, takes the step, reads again; then writes the status.

Its volumes and ports are made by reconcilers of their own, at the same time; they wake this one.
"""

from google.protobuf.message import Message

from controller.cell.cell import Cell
from controller.cell.compute.server import status
from controller.cell.compute.server.desired import Parts, desired_server, in_order
from controller.cell.compute.server.placer import Placer
from controller.cell.compute.server.plan import (
    Disk,
    Finish,
    Mark,
    Place,
    Remove,
    RemoveStray,
    Step,
    Tell,
    Wait,
    World,
    plan,
)
from controller.cell.ends import add_end
from controller.cell.orders import user_data_key
from controller.cell.owners import Owners
from controller.cell.presence import absence, is_leaving, newest_holder, ports_elsewhere, server_is_leaving, servers_elsewhere
from controller.cell.session import Session, digest
from kumo.api.agent.v1.compute_pb2 import DesiredServer, ServerFacts
from kumo.api.agent.v1.network_pb2 import PortFacts
from kumo.api.agent.v1.storage_pb2 import Owner
from kumo.api.cell.v1.record_pb2 import Order, Placement
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.errors import Aborted, Error
from kumo.log import get_logger
from kumo.stamps import epoch_order

log = get_logger(__name__)

# Far more than a server needs on its way; a plan that does not rest is a bug and must not hold a worker.
_MOST_STEPS = 16
_MADE = frozenset({Volume.AVAILABLE, Volume.IN_USE})


class ServerReconciler:
    """Called by the loop of servers with a uid."""

    def __init__(self, cell: Cell, placer: Placer, owners: Owners) -> None:
        self._cell, self._placer, self._owners = cell, placer, owners

    async def reconcile(self, uid: str) -> None:
        for _ in range(_MOST_STEPS):
            server, order = self._cell.records.servers.get(uid), self._cell.records.orders.get(uid)
            if server is None or order is None:
                return
            parts = self._parts(server)
            desired = desired_server(server, order.project_uid, parts, self._cell.underlay_mtu)
            step = plan(self._world(server, order, parts, desired))
            if step is None or isinstance(step, Wait):
                await self._report(server, parts, step)
                return
            try:
                goes_on = await self._take(step, server, order, desired)
            except Aborted:
                raise  # something changed in between: read again, and say nothing
            except Error as error:
                await self._report(server, parts, step, error)
                raise
            if not goes_on:
                await self._report(server, parts, step)
                return
        raise RuntimeError(f"the plan of server {uid} does not come to rest")

    async def _take(self, step: Step, server: Server, order: Order, desired: DesiredServer) -> bool:
        """Take one step; return whether the next may be looked for at once."""
        placement = self._cell.records.placements.get(server.uid) or Placement()
        match step:
            case Place():
                return await self._placer.place(server, order)
            case Mark(volume_uids):
                owner = Owner(server_uid=server.uid, host=placement.host, epoch=placement.epoch)
                for volume_uid in volume_uids:
                    await self._owners.set(volume_uid, owner)
            case Tell():
                session = self._cell.agents.session(placement.host_uid)
                desired.user_data = await self._user_data(order)
                what = _told(server, order, desired, placement)
                await session.apply_server(server.uid, desired, placement.epoch, server.generation, what)
            case Remove():
                await self._remove(self._cell.agents.session(placement.host_uid), server, placement)
            case RemoveStray(host_uid):
                log.warning("server taken from a host that is not its own", server=server.name, host_uid=host_uid)
                facts = await self._remove(self._cell.agents.session(host_uid), server, placement)
                return facts.power == ServerFacts.ABSENT
            case Finish():
                await self._finish(server)
            case Wait():
                return False
        return True

    async def _remove(self, session: Session, server: Server, placement: Placement) -> ServerFacts:
        known = session.servers.get(server.uid)
        epoch = max(placement.epoch, known.held.epoch if known is not None else Epoch(), key=epoch_order)
        what = absence(placement.epoch, server.generation)
        return await session.apply_server(server.uid, None, epoch, server.generation, what)

    async def _finish(self, server: Server) -> None:
        """Free the room and record the end, at once: a claim never outlives its server, nor the other way round."""
        async with self._placer.alone(server.uid):
            change = self._cell.ledger.change()
            add_end(self._cell, change, self._cell.records.servers, server.uid, withdrawn=not server.HasField("delete_time"))
            self._placer.add_release(change, server.uid)
            change.changes.delete(user_data_key(self._cell.ledger.keys, server.uid))
            await self._cell.ledger.commit(change)
        self._owners.forget(server.uid)
        log.info("server gone", server=server.name)

    async def _user_data(self, order: Order) -> bytes:
        if not order.user_data_sha256:
            return b""
        kept = await self._cell.ledger.read(user_data_key(self._cell.ledger.keys, order.uid))
        return kept.value if kept is not None else b""

    def _world(self, server: Server, order: Order, parts: Parts, desired: DesiredServer) -> World:
        placement = self._cell.records.placements.get(server.uid) or Placement()
        session = self._cell.agents.get(placement.host_uid)
        leaving = server_is_leaving(self._cell, server)
        what = absence(placement.epoch, server.generation) if leaving else _told(server, order, desired, placement)
        facts = session.servers.get(server.uid) if session is not None else None
        is_placed = bool(placement.host_uid) and (leaving or placement.epoch.cell >= order.stamp.epoch.cell)
        holder = newest_holder(self._cell, server.uid)
        if holder is not None and not leaving and epoch_order(holder[1]) > epoch_order(placement.epoch):
            is_placed = False  # our store went back in time: its placement is taken over from the host that has it
        return World(
            is_leaving=leaving,
            is_placed=is_placed,
            is_host_ready=session is not None and session.is_ready,
            was_told=session is not None and session.was_told(server.uid, what),
            is_absent=facts is not None and facts.power == ServerFacts.ABSENT,
            missing=parts.missing,
            disks=tuple(self._disk(volume, server, placement) for volume, _pool in parts.disks),
            strays=tuple(servers_elsewhere(self._cell, server.uid, placement.host_uid)) if is_placed or leaving else (),
            left=self._left(server) if leaving else (),
        )

    def _disk(self, volume: Volume, server: Server, placement: Placement) -> Disk:
        owner = Owner(server_uid=server.uid, host=placement.host, epoch=placement.epoch)
        return Disk(volume.uid, volume.status.state in _MADE, self._owners.is_set(volume.uid, owner))

    def _parts(self, server: Server) -> Parts:
        records = self._cell.records
        disks: list[tuple[Volume, Pool]] = []
        ports: list[tuple[Port, Network]] = []
        missing: list[str] = []
        attachments = [one for one in records.attachments.find("server", server.uid) if not is_leaving(self._cell, one)]
        if not any(attachment.spec.root for attachment in attachments):
            missing.append(server.spec.root_volume or "its root volume")
        for attachment in in_order(attachments):
            volume = records.volumes.get(attachment.spec.volume_uid)
            pool = records.pools.get(volume.spec.pool_uid) if volume is not None else None
            if volume is None or pool is None:
                missing.append(attachment.spec.volume)
            else:
                disks.append((volume, pool))
        for nic in server.spec.nics:
            port = records.ports.get(nic.port_uid)
            network = records.networks.get(port.spec.network_uid) if port is not None else None
            if port is None or network is None:
                missing.append(nic.port or nic.port_uid)
            else:
                ports.append((port, network))
        return Parts(tuple(disks), tuple(ports), tuple(missing))

    def _left(self, server: Server) -> tuple[str, ...]:
        """Return the names of what was made for the server and is there still, and of ports that a host has bound for it."""
        records = self._cell.records
        owned: list[Message] = [*records.volumes.find("owner", server.uid)]
        owned += [port for port in records.ports.find("server", server.uid) if port.owner_uid == server.uid]
        owned += [one for one in records.attachments.find("server", server.uid) if one.owner_uid == server.uid]
        bound = [port for port in records.ports.find("server", server.uid) if ports_elsewhere(self._cell, port.uid, "")]
        return tuple(sorted({str(getattr(thing, "name")) for thing in (*owned, *bound)}))  # noqa: B009  # see report.py

    async def _report(self, server: Server, parts: Parts, step: Step | None, trouble: Error | None = None) -> None:
        placement = self._cell.records.placements.get(server.uid)
        session = self._cell.agents.get(placement.host_uid) if placement is not None else None
        unbound = tuple(port.name for port, _network in parts.ports if not _is_bound(session, port.uid))
        seen = status.Seen(
            server=server,
            is_leaving=server_is_leaving(self._cell, server),
            placement=placement,
            facts=session.servers.get(server.uid) if session is not None else None,
            is_host_ready=session is not None and session.is_ready,
            parts=parts,
            unbound_ports=unbound,
            step=step,
            trouble=trouble,
        )
        part = status.derive(seen, self._cell.now())
        told = status.happened(server.status, part.status, placement.host if placement is not None else "")
        await self._cell.reporter.report(self._cell.records.servers, part, told, self._cell.now())


def _is_bound(session: Session | None, port_uid: str) -> bool:
    facts = session.ports.get(port_uid) if session is not None else None
    return facts is not None and facts.binding == PortFacts.BOUND


def _told(server: Server, order: Order, desired: DesiredServer, placement: Placement) -> bytes:
    """Return the digest of the command; user data, which may be large, by its own."""
    plain = DesiredServer()
    plain.CopyFrom(desired)
    plain.ClearField("user_data")
    return digest(plain, order.user_data_sha256, placement.epoch, server.generation)
