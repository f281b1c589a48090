"""Has one network on each host that has a port of it and on no other; writes its status.

Agents do not report networks, so the hosts that carry one are written down before it is made there.
"""

import asyncio
from collections.abc import Iterable

from controller.cell.cell import Cell
from controller.cell.conditions import Said, conditions
from controller.cell.ends import finish
from controller.cell.network.network.desired import PlacedPort, desired_by_host
from controller.cell.network.network.plan import Finish, Record, Remove, Step, Tell, Wait, World, plan
from controller.cell.presence import host_of, is_leaving, is_withdrawn, ports_elsewhere, server_is_leaving
from controller.cell.session import digest
from kumo.api.agent.v1.network_pb2 import DesiredNetwork
from kumo.api.cell.v1.record_pb2 import Carriers
from kumo.api.network.v1.network_pb2 import Network
from kumo.log import get_logger

log = get_logger(__name__)

_MOST_STEPS = 16
# Each new port is told to every host of its network: what is told is gathered for so many times as long as telling takes.
_GATHER = 3.0
_MOST_GATHER_S = 3.0
_LONG_S = 0.05
_SOON_S = 0.1


class NetworkReconciler:
    """Called by the loop of networks with a uid."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        # On the monotonic clock, by uid.
        self._not_before: dict[str, float] = {}

    async def reconcile(self, uid: str) -> float | None:
        clock = self._cell.clock
        began = clock.monotonic()
        if (early_s := self._not_before.get(uid, 0.0) - began) > 0:
            return early_s
        self._not_before.pop(uid, None)
        is_settled = await self._settle(uid)
        took_s = clock.monotonic() - began
        if took_s > _LONG_S:
            self._not_before[uid] = clock.monotonic() + min(_GATHER * took_s, _MOST_GATHER_S)
        # Ports that come and go all the time must not keep other networks from their turn.
        return None if is_settled else _SOON_S

    async def _settle(self, uid: str) -> bool:
        """Take steps until none is left; False if there are more than one turn may take."""
        for _ in range(_MOST_STEPS):
            network, order = self._cell.records.networks.get(uid), self._cell.records.orders.get(uid)
            if network is None or order is None:
                return True
            wanted = desired_by_host(network, order.subnets, self._placed(network), self._cell.underlay_mtu)
            match plan(self._world(network, wanted)):
                case Record(host_uids):
                    await self._record(network, host_uids)
                case Tell(host_uids):
                    tellings = (self._tell(network, host_uid, wanted[host_uid]) for host_uid in sorted(host_uids))
                    for told in await asyncio.gather(*tellings, return_exceptions=True):
                        # One host that fails must not keep the others from being told.
                        if told is not None:
                            raise told
                case Remove(host_uids):
                    await self._remove(network, host_uids)
                case Finish():
                    await finish(self._cell, self._cell.records.networks, uid, withdrawn=not network.HasField("delete_time"))
                    log.info("network gone", network=network.name)
                case Wait() | None as step:
                    await self._report(network, step)
                    return True
        return False

    async def _record(self, network: Network, host_uids: Iterable[str]) -> None:
        change = self._cell.ledger.change()
        kept = Carriers(name=network.name, uid=network.uid, host_uids=sorted(host_uids))
        change.put(kept, replaces=self._cell.records.carriers.intent_revision(network.uid))
        await self._cell.ledger.commit(change)

    async def _tell(self, network: Network, host_uid: str, desired: DesiredNetwork) -> None:
        session = self._cell.agents.session(host_uid)
        await session.apply_network(network.uid, desired, network.generation, digest(desired, network.generation))

    async def _remove(self, network: Network, host_uids: Iterable[str]) -> None:
        """Remove, acknowledge, and forget, in this order: what was not forgotten is removed again."""
        for host_uid in sorted(host_uids):
            session = self._cell.agents.session(host_uid)
            await session.apply_network(network.uid, None, network.generation, digest(None, network.generation))
            await session.acknowledge([network.uid])
        left = self._carrying(network.uid) - set(host_uids)
        if left:
            await self._record(network, left)
            return
        change = self._cell.ledger.change()
        change.delete(Carriers, network.uid, replaces=self._cell.records.carriers.intent_revision(network.uid))
        await self._cell.ledger.commit(change)

    def _world(self, network: Network, wanted: dict[str, DesiredNetwork]) -> World:
        carrying = self._carrying(network.uid)
        sessions = {session.host_uid: session for session in self._cell.agents.all() if session.is_ready}
        told = {
            uid
            for uid, desired in wanted.items()
            if uid in sessions and sessions[uid].was_told(network.uid, digest(desired, network.generation))
        }
        # A host that is gone for good carries nothing: hosts are removed only when nothing is placed on them.
        known = frozenset(uid for uid in carrying if self._cell.records.hosts.entry(uid) is not None)
        return World(
            is_leaving=network.HasField("delete_time") or is_withdrawn(self._cell, network.uid),
            wanted=frozenset(wanted),
            carrying=known,
            told=frozenset(told),
            ready=frozenset(sessions),
            with_ports=self._with_ports(network.uid),
        )

    def _with_ports(self, uid: str) -> frozenset[str]:
        """Return the hosts whose agents have something of a port of it."""
        ports = self._cell.records.ports.find("network", uid)
        return frozenset(host_uid for port in ports for host_uid in ports_elsewhere(self._cell, port.uid, ""))

    def _carrying(self, uid: str) -> frozenset[str]:
        kept = self._cell.records.carriers.get(uid)
        return frozenset(kept.host_uids) if kept is not None else frozenset()

    def _placed(self, network: Network) -> list[PlacedPort]:
        """Return its ports whose servers are placed and stay."""
        records, found = self._cell.records, []
        for port in records.ports.find("network", network.uid):
            server = records.servers.get(port.spec.server_uid)
            placement = host_of(self._cell, port.spec.server_uid)
            if server is None or placement is None or is_leaving(self._cell, port) or server_is_leaving(self._cell, server):
                continue
            host = records.hosts.get(placement.host_uid)
            if host is not None:
                found.append(PlacedPort(port, host.uid, host.spec.tunnel_address))
        return found

    async def _report(self, network: Network, step: Step | None) -> None:
        part = Network(uid=network.uid)
        after = part.status
        after.observed_generation = network.generation
        leaving = network.HasField("delete_time") or is_withdrawn(self._cell, network.uid)
        after.state = Network.DELETING if leaving else Network.ACTIVE
        hosts = self._names(step.host_uids) if isinstance(step, Wait) else ""
        if isinstance(step, Wait) and step.why == "HOST_SILENT":
            message = "not all hosts that carry it answer"
            said = Said("Carried", False, "HOST_SILENT", message, "wait for the hosts", f"{hosts} does not answer")
        elif isinstance(step, Wait):
            message = "something of it is still on hosts"
            said = Said("Carried", True, step.why, message, operator_message=f"something of it is still on {hosts}")
        else:
            said = Said("Carried", True, "CARRIED", "each host that needs it has it")
        now = self._cell.now()
        after.conditions.extend(conditions(network.status.conditions, [said], network.generation, now))
        await self._cell.reporter.report(self._cell.records.networks, part, (), now)

    def _names(self, host_uids: Iterable[str]) -> str:
        hosts = (self._cell.records.hosts.get(uid) for uid in host_uids)
        return ", ".join(sorted(host.name for host in hosts if host is not None))
