"""Derives the whole status of a server, and what to say happened, from its intent and from what is so. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controller.cell.compute.server.desired import Parts
from controller.cell.compute.server.plan import Step, Wait
from controller.cell.conditions import Said, conditions, from_agent
from controller.cell.events import WARNING, Happened
from kumo.api.agent.v1.compute_pb2 import ServerFacts
from kumo.api.cell.v1.record_pb2 import Placement
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.errors import Error

# What the agent knows better than anybody; said on as it says it.
_OF_AGENT = ("GuestReady", "DiskOwned")
# What a host says of a server that it has.
_KNOWN = frozenset({ServerFacts.RUNNING, ServerFacts.OFF})
_TAP_LOST = "TAP_LOST"
# A guest stands still at a disk that is full.
_DISK_REFUSES = "DISK_REFUSES"
_MADE = frozenset({Volume.AVAILABLE, Volume.IN_USE})


@dataclass(frozen=True)
class Seen:
    """`server` has the status that is stored. `facts` are of the host it is placed on, as last seen there; `trouble` stopped `step`."""

    server: Server
    is_leaving: bool
    placement: Placement | None
    facts: ServerFacts | None
    is_host_ready: bool
    parts: Parts
    unbound_ports: tuple[str, ...]
    step: Step | None
    trouble: Error | None = None


def state(seen: Seen) -> Server.State.ValueType:
    if seen.is_leaving:
        return Server.DELETING
    if any(volume.status.state == Volume.FAILED for volume, _pool in seen.parts.disks):
        return Server.FAILED
    facts, spec = seen.facts, seen.server.spec
    if facts is None or facts.power not in _KNOWN:
        return _unseen_state(seen.server)
    wants_running = spec.power != Server.OFF
    if facts.power == ServerFacts.RUNNING:
        if not wants_running:
            return Server.STOPPING
        if spec.reboots > facts.reboots:
            return Server.REBOOTING
        if _runs(facts):
            return Server.ACTIVE
    elif not wants_running:
        return Server.STOPPED
    return Server.STARTING if seen.server.status.HasField("start_time") else Server.CREATING


def _unseen_state(server: Server) -> Server.State.ValueType:
    """Return what is so while no host says so: what was seen last, but never that what was asked since is done."""
    spec, before = server.spec, server.status
    if not before.HasField("start_time") or before.state in (Server.STATE_UNSPECIFIED, Server.DELETING):
        return Server.CREATING
    if spec.power == Server.OFF:
        return Server.STOPPING if before.state in (Server.ACTIVE, Server.STARTING, Server.REBOOTING) else before.state
    if before.state in (Server.STOPPED, Server.STOPPING):
        return Server.STARTING
    if before.state == Server.ACTIVE and spec.reboots > before.reboots:
        return Server.REBOOTING
    return before.state


def _runs(facts: ServerFacts) -> bool:
    """Return whether the guest was let run. A process that is only being set up may be given up, and another comes in its place."""
    started = next((one for one in facts.conditions if one.type == "Started"), None)
    is_held_back = started is not None and started.status == Condition.FALSE and started.reason != _DISK_REFUSES
    return facts.power == ServerFacts.RUNNING and not is_held_back


def derive(seen: Seen, now: datetime) -> Server:
    """Return a server with its uid and its status alone."""
    server, before = seen.server, seen.server.status
    part = Server(uid=server.uid)
    status = part.status
    status.state = state(seen)
    status.observed_generation = server.generation
    status.power, status.reboots, status.virt_type = before.power, before.reboots, before.virt_type
    if before.HasField("start_time"):
        status.start_time.CopyFrom(before.start_time)
    if seen.facts is not None and seen.facts.power in _KNOWN:
        status.power, status.reboots = Server.RUNNING if _runs(seen.facts) else Server.OFF, seen.facts.reboots
        if _runs(seen.facts):
            status.virt_type = seen.facts.virt_type or before.virt_type
            if seen.facts.HasField("start_time"):
                status.start_time.CopyFrom(seen.facts.start_time)
    for port, _network in seen.parts.ports:
        status.addresses.add(port=port.name, network=port.spec.network, address=port.spec.address, mac=port.spec.mac)
    if seen.placement is not None and seen.placement.host_uid:
        status.host, status.host_uid = f"hosts/{seen.placement.host}", seen.placement.host_uid
        status.cell_epoch, status.host_epoch = seen.placement.epoch.cell, seen.placement.epoch.host
    status.conditions.extend(conditions(before.conditions, _said(seen), server.generation, now))
    return part


def _said(seen: Seen) -> list[Said]:
    said = [_placed(seen), _disk_ready(seen), _ports_ready(seen)]
    said += _of_host(seen)
    if _is_host_silent(seen):
        host = seen.placement.host if seen.placement is not None else ""
        said.append(
            Said(
                "HostAnswers",
                False,
                "HOST_SILENT",
                "its host does not answer; what is said here is what was seen last, and the server may run on",
                "wait: the work goes on by itself when the host answers",
                f"the agent of host {host} does not answer",
            )
        )
    if seen.trouble is not None:
        said.append(Said("GoesOn", False, seen.trouble.reason, "a step failed and is tried again", "wait", seen.trouble.message))
    if isinstance(seen.step, Wait) and seen.is_leaving:
        said.append(_gone(seen, seen.step))
    return said


def _is_host_silent(seen: Seen) -> bool:
    return seen.placement is not None and bool(seen.placement.host_uid) and not seen.is_host_ready


def _of_host(seen: Seen) -> list[Said]:
    """Return what only the host can know. While it is silent, whether a guest runs and is ready is not known: it may have lost power."""
    reported = {one.type: one for one in seen.facts.conditions} if seen.facts is not None else {}
    before = {one.type for one in seen.server.status.conditions}
    if _is_host_silent(seen):
        was_known = [kind for kind in ("Started", *_OF_AGENT) if kind in before or kind in reported]
        return [Said(kind, None, "HOST_SILENT", "its host does not answer, so that this is not known now") for kind in was_known]
    stands_still = "Started" in reported and reported["Started"].reason == _DISK_REFUSES
    if seen.facts is not None and _runs(seen.facts) and not stands_still:
        started = Said("Started", True, "RUNNING", "the server runs")
    elif "Started" in reported:
        started = from_agent(reported["Started"])
    else:
        started = Said("Started", False, "NOT_RUNNING", "the server does not run")
    return [started, *(from_agent(reported[kind]) for kind in _OF_AGENT if kind in reported)]


def _placed(seen: Seen) -> Said:
    placement = seen.placement
    if placement is not None and placement.host_uid:
        return Said("Placed", True, "PLACED", "a host was chosen", operator_message=f"it is placed on host {placement.host}")
    if placement is not None and placement.verdict.HasField("because"):
        because = placement.verdict.because
        return Said("Placed", False, because.reason, because.message, because.fix, because.operator_message)
    return Said("Placed", False, "NOT_YET", "no host was chosen yet")


def _disk_ready(seen: Seen) -> Said:
    if not seen.parts.disks:
        return Said("DiskReady", False, "NOT_YET", "its root volume is not known here yet")
    for volume, _pool in seen.parts.disks:
        if volume.status.state not in _MADE:
            why = next((one for one in volume.status.conditions if one.type == "Ready" and one.status == Condition.FALSE), None)
            if why is None:
                return Said("DiskReady", False, "NOT_YET", f"{volume.name} is being made")
            return Said("DiskReady", False, why.reason, why.message, why.fix, why.operator_message)
    return Said("DiskReady", True, "READY", "its disk is there")


def _ports_ready(seen: Seen) -> Said:
    if seen.parts.missing:
        return Said("PortsReady", False, "NOT_YET", "not everything that belongs to it is known here yet")
    if seen.unbound_ports:
        return Said("PortsReady", False, "BINDING", f"{', '.join(seen.unbound_ports)} is not in force yet")
    if (lost := _taps_lost(seen)) is not None:
        return lost
    return Said("PortsReady", True, "BOUND", "the rules of its ports are in force")


def _taps_lost(seen: Seen) -> Said | None:
    """Return what its host says of links that were removed under a running server, which only the host can know."""
    if seen.facts is None or _is_host_silent(seen):
        return None
    return next((from_agent(one) for one in seen.facts.conditions if one.type == "PortsReady" and one.reason == _TAP_LOST), None)


def _gone(seen: Seen, wait: Wait) -> Said:
    match wait.why:
        case "HOST_SILENT":
            host = seen.placement.host if seen.placement is not None else ""
            return Said(
                "Gone",
                False,
                "HOST_SILENT",
                "its host does not answer, so that it cannot be proven gone",
                "wait for the host",
                f"the agent of host {host} does not answer",
            )
        case "PARTS_LEFT":
            return Said("Gone", False, "PARTS_LEFT", f"still to go: {', '.join(wait.what)}")
        case _:
            return Said("Gone", False, "REMOVING", "its host is taking it away")


def happened(before: Server.Status, after: Server.Status, host: str) -> Sequence[Happened]:
    """Return what to tell about the way from one status to the next."""
    found: list[Happened] = []
    where = f" on host {host}" if host else ""
    if before.state != after.state:
        match after.state:
            case Server.ACTIVE if before.state == Server.REBOOTING:
                found.append(Happened("REBOOTED", "the server was rebooted", operator_message=f"the server was rebooted{where}"))
            case Server.ACTIVE:
                found.append(Happened("STARTED", "the server runs", operator_message=f"the server runs{where}"))
            case Server.STOPPED:
                found.append(Happened("STOPPED", "the server does not run", operator_message=f"the server does not run{where}"))
            case Server.FAILED:
                why = next((one for one in after.conditions if one.type == "DiskReady"), Condition())
                found.append(Happened("FAILED", why.message, WARNING, why.fix, why.operator_message))
            case _:
                pass
    if _holds(after, "GuestReady") and _is_denied(before, "GuestReady"):
        found.append(Happened("GUEST_READY", "the guest says that it is ready"))
    for reason in (_TAP_LOST, _DISK_REFUSES):
        trouble = next((one for one in after.conditions if one.reason == reason), None)
        if trouble is not None and not any(one.reason == reason for one in before.conditions):
            found.append(Happened(reason, trouble.message, WARNING, trouble.fix, trouble.operator_message))
    silent = next((one for one in after.conditions if one.type == "HostAnswers"), None)
    if silent is not None and not any(one.type == "HostAnswers" for one in before.conditions):
        found.append(Happened("HOST_SILENT", silent.message, WARNING, silent.fix, silent.operator_message))
    return found


def _holds(status: Server.Status, kind: str) -> bool:
    return any(one.type == kind and one.status == Condition.TRUE for one in status.conditions)


def _is_denied(status: Server.Status, kind: str) -> bool:
    """Return whether it did not hold, for certain: what was not known while the host was silent is no news."""
    return not any(one.type == kind and one.status != Condition.FALSE for one in status.conditions)
