"""Puts what is so of a server into facts: its conditions, each with the moment since when it holds. It decides nothing."""

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from agent.compute.driver import Domain
from agent.compute.plan import DISK_NOT_OWNED, DISK_REFUSES, PORTS_NOT_READY, RESTARTING, STANDS_STILL, STARTING, Define, Step, Wait, World
from kumo.api.agent.v1.compute_pb2 import DesiredServer, ServerFacts
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.api.type.v1.stamp_pb2 import Stamp
from kumo.clock import Clock
from kumo.errors import Error

DEFINED, STARTED, PORTS_READY, GUEST_READY, DISK_OWNED = "Defined", "Started", "PortsReady", "GuestReady", "DiskOwned"
# A guest runs, but its link is gone.
TAP_LOST = "TAP_LOST"


@dataclass(frozen=True)
class Said:
    """A condition without its times."""

    holds: bool
    reason: str
    message: str
    fix: str = ""
    operator_message: str = ""


class Conditions:
    """The conditions of one server. What changes neither its status nor its reason keeps its time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, Condition] = {}

    def say(self, said: dict[str, Said], generation: int) -> list[Condition]:
        """Take `said` for all that holds and does not, and return it with its times."""
        self._held = {kind: self._condition(kind, said[kind], generation) for kind in sorted(said)}
        return list(self._held.values())

    def _condition(self, kind: str, said: Said, generation: int) -> Condition:
        status = Condition.TRUE if said.holds else Condition.FALSE
        before = self._held.get(kind)
        since = Timestamp()
        if before is not None and (before.status, before.reason) == (status, said.reason):
            since = before.since
        else:
            since.FromDatetime(self._clock.now())
        return Condition(
            type=kind,
            status=status,
            reason=said.reason,
            message=said.message,
            fix=said.fix,
            operator_message=said.operator_message,
            since=since,
            observed_generation=generation,
        )


@dataclass(frozen=True)
class Situation:
    """What the conditions of a server follow from."""

    world: World
    step: Step | None
    error: Error | None
    # Why a disk is not the server's, as read last; None: it was not asked since the agent began.
    disks_foreign: str | None
    guest_ready: bool
    # Uids of ports whose taps are gone while the guest runs, for operators; empty: none.
    taps_lost: str = ""


def said_of(desired: DesiredServer, situation: Situation) -> dict[str, Said]:
    """Return what holds of a server that shall be here, and what does not, by its condition's type."""
    said = {
        DEFINED: _defined(situation),
        STARTED: _started(desired, situation),
        GUEST_READY: _guest_ready(situation),
    }
    if desired.nics:
        said[PORTS_READY] = _ports_ready(situation)
    if situation.disks_foreign is not None:
        said[DISK_OWNED] = _disk_owned(situation.disks_foreign)
    return said


def _defined(situation: Situation) -> Said:
    if situation.world.domain is None or isinstance(situation.step, Define):
        return Said(False, "NOT_DEFINED", "the hypervisor does not know the server yet")
    return Said(True, "DEFINED", "the hypervisor knows the server as it shall be")


def _started(desired: DesiredServer, situation: Situation) -> Said:
    domain, step, error = situation.world.domain, situation.step, situation.error
    running = domain is not None and domain.runs
    if error is not None:
        return Said(
            running, error.reason, "the host could not do the next step yet; it tries again", operator_message=f"{step}: {error.message}"
        )
    if (domain is not None and domain.halted) or (isinstance(step, Wait) and step.reason == DISK_REFUSES):
        fix = "wait: it goes on by itself once there is room; whoever runs this cloud sees which pool is full"
        return Said(False, DISK_REFUSES, STANDS_STILL, fix)
    if isinstance(step, Wait):
        fix = "stop the server if it shall stay off" if step.reason == RESTARTING else ""
        if step.reason == DISK_NOT_OWNED:
            return Said(running, step.reason, "a disk of the server is not its own at present", operator_message=step.message)
        return Said(running, step.reason, step.message, fix)
    if running:
        return Said(True, "RUNNING", "a process runs")
    if not desired.running:
        return Said(False, "STOPPED", "it shall not run")
    return Said(False, STARTING, "it is being started")


def _ports_ready(situation: Situation) -> Said:
    lacking = situation.world.ports_lacking
    if lacking:
        return Said(False, PORTS_NOT_READY, "the server's ports are not in force on its host yet", operator_message=lacking)
    if situation.taps_lost:
        # QEMU keeps the descriptor of a device that is no more; only another process gets another.
        lost = f"somebody removed the taps of ports {situation.taps_lost} from the host"
        return Said(False, TAP_LOST, "the server runs, and is cut off from its network", "reboot the server with --hard", lost)
    return Said(True, "BOUND", "the rules of all ports are in force")


def _disk_owned(foreign: str) -> Said:
    if foreign:
        return Said(False, DISK_NOT_OWNED, "a disk of the server is not its own at present", operator_message=foreign)
    return Said(True, "OWNED", "the marks of all disks name this server")


def _guest_ready(situation: Situation) -> Said:
    domain = situation.world.domain
    if domain is None or domain.process is None:
        return Said(False, "NOT_RUNNING", "the server does not run")
    if situation.guest_ready:
        return Said(True, "REPORTED", "the guest reported that it is ready")
    return Said(False, "NOT_REPORTED", "the guest has not reported that it is ready", "use an image whose guest reports")


def facts_of(
    uid: str,
    held: Stamp | None,
    domain: Domain | None,
    *,
    settled: bool,
    reboots: int,
    conditions: list[Condition],
    client_addresses: list[str],
) -> ServerFacts:
    """Return facts, which say OFF of a server that does not run: whether it is absent is for the caller to say.

    `held` None: no command speaks of it, and what the hypervisor knows is all.
    """
    facts = ServerFacts(uid=uid, held=held, settled=settled, reboots=reboots, conditions=conditions)
    if held is None and domain is not None:
        facts.held.epoch.cell, facts.held.epoch.host = domain.epoch
        facts.held.generation = domain.generation
    if domain is not None and domain.process is not None:
        facts.power = ServerFacts.RUNNING
        facts.virt_type = domain.virt_type
        facts.client_addresses.extend(client_addresses)
        if domain.start_time is not None:
            facts.start_time.FromDatetime(domain.start_time)
    else:
        facts.power = ServerFacts.OFF
    return facts
