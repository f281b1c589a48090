"""Writes the status of one host from what its agent says, from how long it was silent and from what is booked on it."""

from datetime import timedelta

from controller.cell.cell import Cell
from controller.cell.conditions import Said, conditions
from controller.cell.events import WARNING, Happened
from controller.cell.fleet.host.plan import World, judge, lacking, misfits
from controller.cell.session import Session
from kumo.api.agent.v1.agent_pb2 import HostFacts
from kumo.api.fleet.v1.host_pb2 import Host


class HostReconciler:
    """Called by the loop of hosts with a uid."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    async def reconcile(self, uid: str) -> float | None:
        host = self._cell.records.hosts.get(uid)
        if host is None:
            return None
        session = self._cell.agents.get(uid)
        ready = session is not None and session.is_ready
        silent_s = self._cell.clock.monotonic() - session.silent_since if session is not None and not ready else 0.0
        verdict = judge(World(host.status.state, ready, silent_s))
        part = self._derive(host, session, verdict.state, silent_s)
        told = _happened(host, part, session)
        await self._cell.reporter.report(self._cell.records.hosts, part, told, self._cell.now())
        return verdict.look_again_s

    def _derive(self, host: Host, session: Session | None, state: Host.State.ValueType, silent_s: float) -> Host:
        """Return a host with its uid and its status alone; what is not known now stays as it was."""
        before = host.status
        part = Host(uid=host.uid)
        after = part.status
        after.CopyFrom(before)
        after.ClearField("conditions")
        after.state = state
        after.observed_generation = host.generation
        facts = session.host if session is not None and session.is_ready else None
        if facts is not None:
            _take(after, facts)
        if facts is not None and (state != before.state or not before.HasField("heard_time")):
            after.heard_time.FromDatetime(self._cell.now())
        elif facts is None and before.state == Host.UP and state != Host.UP:
            after.heard_time.FromDatetime(self._cell.now() - timedelta(seconds=silent_s))
        booking = self._cell.records.bookings.get(host.uid)
        after.claimed_vcpus = booking.vcpus if booking is not None else 0
        after.claimed_memory_mib = booking.memory_mib if booking is not None else 0
        after.server_count = booking.claim_count if booking is not None else 0
        said = [_answers(host, session, state)]
        if facts is not None:
            said += [_healthy(facts), _compatible(facts), _fits(host, facts, self._cell.underlay_mtu)]
        after.conditions.extend(conditions(before.conditions, said, host.generation, self._cell.now()))
        return part


def _take(after: Host.Status, facts: HostFacts) -> None:
    after.vcpus, after.memory_mib = facts.vcpus, facts.memory_mib
    # A host without the compute role runs no servers, whatever it could; one whose agent cannot do all that is asked gets no new ones.
    runs_servers = "compute" in facts.roles and not lacking(facts)
    after.virt_type, after.virt_reason = (facts.virt_type, facts.virt_reason) if runs_servers else ("", "")
    after.boot_id, after.agent_version = facts.boot_id, facts.agent_version
    after.versions.clear()
    after.versions.update(facts.versions)


def _answers(host: Host, session: Session | None, state: Host.State.ValueType) -> Said:
    if session is not None and session.is_ready:
        return Said("AgentAnswers", True, "HEARD", "its agent answers")
    why = session.why_silent if session is not None else "it is not dialled yet"
    reason = "NEVER_HEARD" if state == Host.JOINING else "SILENT"
    message = f"its agent at {host.spec.agent_address} does not answer: {why}"
    return Said("AgentAnswers", False, reason, message, "look at the agent of that host, and at the network to it")


def _healthy(facts: HostFacts) -> Said:
    if facts.problems:
        return Said("Healthy", False, "PROBLEMS", "; ".join(sorted(facts.problems)), "see what each says")
    return Said("Healthy", True, "NO_PROBLEMS", "nothing is wrong that it knows of")


def _compatible(facts: HostFacts) -> Said:
    if missing := lacking(facts):
        message = f"its agent is of version {facts.agent_version or 'unknown'} and cannot do {', '.join(missing)}"
        return Said(
            "Compatible", False, "AGENT_TOO_OLD", message, "upgrade kumo-agent on that host; its servers run on, and it takes no new ones"
        )
    return Said("Compatible", True, "SAME_WORDS", "its agent can do all that this controller asks")


def _fits(host: Host, facts: HostFacts, underlay_mtu: int) -> Said:
    if found := misfits(host.spec, facts, underlay_mtu):
        return Said("PlanesFit", False, found[0].reason, "; ".join(one.message for one in found), found[0].fix)
    return Said("PlanesFit", True, "AS_RECORDED", "it has the addresses that its record says, and their links carry what tunnels need")


def _happened(host: Host, part: Host, session: Session | None) -> list[Happened]:
    before, after = host.status, part.status
    found = []
    if before.state != after.state and after.state == Host.UP:
        found.append(Happened("HOST_UP", "its agent answers"))
    if before.state == Host.UP and after.state == Host.DOWN:
        why = session.why_silent if session is not None else ""
        found.append(Happened("HOST_DOWN", f"its agent does not answer: {why}", WARNING, "look at the agent of that host"))
    if before.boot_id and before.boot_id != after.boot_id:
        found.append(Happened("HOST_REBOOTED", "it was booted anew"))
    return found
