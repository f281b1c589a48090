"""Binds one port on the host of its server and takes it away again; writes its status. Its network is made by its own reconciler."""

from controller.cell.cell import Cell
from controller.cell.conditions import Said, conditions, from_agent
from controller.cell.ends import finish
from controller.cell.network.port.desired import desired_port
from controller.cell.network.port.plan import Finish, Remove, Step, Tell, Wait, World, plan
from controller.cell.presence import goes_withdrawn, host_of, is_leaving, ports_elsewhere, server_is_leaving, server_is_off
from controller.cell.session import Session, digest
from kumo.api.agent.v1.network_pb2 import DesiredPort, PortFacts
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.network.v1.subnet_pb2 import Subnet
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.log import get_logger

log = get_logger(__name__)

_MOST_STEPS = 16


class PortReconciler:
    """Called by the loop of ports with a uid."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    async def reconcile(self, uid: str) -> None:
        for _ in range(_MOST_STEPS):
            port = self._cell.records.ports.get(uid)
            if port is None:
                return
            subnet, world = self._subnet(port), self._world(port)
            match plan(world):
                case Tell():
                    if subnet is None:
                        return
                    await self._tell(port, desired_port(port, subnet))
                case Remove(host_uid):
                    session = self._cell.agents.session(host_uid)
                    facts = await session.apply_port(uid, None, self._epoch(port, session), port.generation, digest(None, port.generation))
                    if facts.binding != PortFacts.ABSENT:
                        await self._report(port, Wait("REMOVING"))
                        return
                case Finish():
                    await finish(self._cell, self._cell.records.ports, uid, withdrawn=goes_withdrawn(self._cell, port))
                    log.info("port gone", port=port.name)
                case Wait() | None as step:
                    await self._report(port, step)
                    return
        raise RuntimeError(f"the plan of port {uid} does not come to rest")

    async def _tell(self, port: Port, desired: DesiredPort) -> None:
        placement = host_of(self._cell, port.spec.server_uid)
        if placement is None:
            return
        session = self._cell.agents.session(placement.host_uid)
        what = _told(port, desired, placement.epoch)
        await session.apply_port(port.uid, desired, placement.epoch, port.generation, what)

    def _world(self, port: Port) -> World:
        leaving = is_leaving(self._cell, port)
        server = self._cell.records.servers.get(port.spec.server_uid) if port.spec.server_uid else None
        placement = host_of(self._cell, port.spec.server_uid) if server is not None else None
        stays = placement is not None and server is not None and not leaving and not server_is_leaving(self._cell, server)
        session = self._cell.agents.get(placement.host_uid) if placement is not None else None
        subnet = self._subnet(port)
        told = (
            session is not None
            and subnet is not None
            and placement is not None
            and session.was_told(port.uid, _told(port, desired_port(port, subnet), placement.epoch))
        )
        facts = session.ports.get(port.uid) if session is not None else None
        may_run = bool(port.spec.server_uid) and not stays and not server_is_off(self._cell, port.spec.server_uid)
        return World(
            is_leaving=leaving,
            host_uid=placement.host_uid if placement is not None and stays else "",
            is_host_ready=session is not None and session.is_ready,
            has_parts=subnet is not None,
            was_told=told,
            is_bound=facts is not None and facts.binding == PortFacts.BOUND,
            server_may_run=may_run,
            strays=tuple(ports_elsewhere(self._cell, port.uid, placement.host_uid if placement is not None and stays else "")),
        )

    def _subnet(self, port: Port) -> Subnet | None:
        order = self._cell.records.orders.get(port.spec.network_uid)
        if order is None:
            return None
        return next((subnet for subnet in order.subnets if subnet.uid == port.spec.subnet_uid), None)

    def _epoch(self, port: Port, session: Session) -> Epoch:
        """Return the epoch to remove it under: that of its server, or the one that the agent holds."""
        placement = self._cell.records.placements.get(port.spec.server_uid)
        facts = session.ports.get(port.uid)
        held = facts.held.epoch if facts is not None else Epoch()
        ours = placement.epoch if placement is not None else Epoch()
        return max(held, ours, key=lambda epoch: (epoch.cell, epoch.host))

    async def _report(self, port: Port, step: Step | None) -> None:
        placement = host_of(self._cell, port.spec.server_uid) if port.spec.server_uid else None
        session = self._cell.agents.get(placement.host_uid) if placement is not None else None
        facts = session.ports.get(port.uid) if session is not None else None
        if placement is None and step is None and port.spec.server_uid and not port.HasField("status"):
            return  # its server is about to be placed
        if isinstance(step, Wait) and step.why == "BINDING" and not port.HasField("status"):
            return  # that it is being bound is plain until something else is so
        part = Port(uid=port.uid)
        after = part.status
        after.observed_generation = port.generation
        if is_leaving(self._cell, port):
            after.state = Port.DELETING
        elif placement is None:
            after.state = Port.DOWN
        else:
            host = self._cell.records.hosts.get(placement.host_uid)
            after.state = Port.ACTIVE if step is None else Port.BINDING
            after.host = f"hosts/{placement.host}"
            after.tunnel_address = host.spec.tunnel_address if host is not None else port.status.tunnel_address
        said = [_said(port, step, after.state)]
        if facts is not None and after.state != Port.DELETING:
            said += [from_agent(one) for one in facts.conditions if one.type != "Bound"]
        now = self._cell.now()
        after.conditions.extend(conditions(port.status.conditions, said, port.generation, now))
        await self._cell.reporter.report(self._cell.records.ports, part, (), now)


def _said(port: Port, step: Step | None, state: Port.State.ValueType) -> Said:
    if isinstance(step, Wait):
        match step.why:
            case "PARTS_MISSING":
                return Said("Bound", False, step.why, f"{port.spec.network} or its subnet is not known in this cell yet")
            case "HOST_SILENT":
                return Said("Bound", False, step.why, "the host of its server does not answer", "wait for the host")
            case "IN_USE":
                return Said("Bound", True, step.why, f"it goes when {port.spec.server} is gone")
            case _:
                return Said("Bound", False, step.why, "its host is at work on it")
    if state == Port.ACTIVE:
        return Said("Bound", True, "BOUND", "its rules are in force")
    return Said("Bound", False, "UNPLUGGED", "no server that is placed is plugged in")


def _told(port: Port, desired: DesiredPort, epoch: Epoch) -> bytes:
    return digest(desired, epoch, port.generation)
