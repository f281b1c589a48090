"""The status of a server follows from its intent and from what is seen, and saying the same again changes nothing."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controller.cell.compute.server.desired import Parts
from controller.cell.compute.server.plan import Wait
from controller.cell.compute.server.status import Seen, derive, happened, state
from kumo.api.agent.v1.compute_pb2 import ServerFacts
from kumo.api.cell.v1.cell_pb2 import Verdict
from kumo.api.cell.v1.record_pb2 import Placement
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.api.type.v1.stamp_pb2 import Epoch

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_POWERS = st.sampled_from([ServerFacts.POWER_UNSPECIFIED, ServerFacts.RUNNING, ServerFacts.OFF, ServerFacts.ABSENT])


@st.composite
def seen(draw: st.DrawFn) -> Seen:
    server = Server(name="projects/p/servers/s", uid="u", generation=draw(st.integers(1, 3)))
    server.spec.power = draw(st.sampled_from([Server.RUNNING, Server.OFF]))
    server.spec.reboots = draw(st.integers(0, 2))
    server.status.state = draw(st.sampled_from(list(Server.State.values())))
    if draw(st.booleans()):
        server.status.start_time.FromDatetime(_NOW)
    facts = ServerFacts(uid="u", power=draw(_POWERS), reboots=draw(st.integers(0, 2))) if draw(st.booleans()) else None
    placement = Placement(uid="u", host_uid="h", host="h1", epoch=Epoch(cell=1, host=1)) if draw(st.booleans()) else None
    volume = Volume(name="projects/p/volumes/v", status=Volume.Status(state=draw(st.sampled_from(list(Volume.State.values())))))
    step = draw(st.sampled_from([None, Wait("HOST_SILENT"), Wait("PARTS_LEFT", ("port",)), Wait("DISK_NOT_READY", ("v",))]))
    return Seen(server, draw(st.booleans()), placement, facts, draw(st.booleans()), Parts(((volume, Pool()),)), (), step)


@given(seen())
def test_deriving_again_says_the_same_and_nothing_happened(seen: Seen) -> None:
    first = derive(seen, _NOW)
    again = Server()
    again.CopyFrom(seen.server)
    again.status.CopyFrom(first.status)
    later = Seen(
        again, seen.is_leaving, seen.placement, seen.facts, seen.is_host_ready, seen.parts, seen.unbound_ports, seen.step, seen.trouble
    )
    second = derive(later, _NOW + timedelta(hours=1))
    if state(later) == state(seen):
        assert second.status.conditions == first.status.conditions
        assert not [one for one in happened(first.status, second.status, "h1") if one.reason != "HOST_SILENT"]


@given(seen())
def test_a_server_is_active_only_while_its_process_runs_and_shall(seen: Seen) -> None:
    facts = seen.facts
    known = facts is not None and facts.power in (ServerFacts.RUNNING, ServerFacts.OFF)
    if known and state(seen) == Server.ACTIVE:
        assert facts is not None and facts.power == ServerFacts.RUNNING
        assert seen.server.spec.power == Server.RUNNING and seen.server.spec.reboots <= facts.reboots


@given(seen())
def test_what_was_asked_is_not_called_done_by_one_who_has_not_heard_the_host(seen: Seen) -> None:
    """A leader that has just begun sees no facts yet, and says that it has seen the newest generation."""
    server, unheard = seen.server, seen.facts is None or seen.facts.power not in (ServerFacts.RUNNING, ServerFacts.OFF)
    if unheard and not seen.is_leaving:
        said = state(seen)
        assert said != Server.ACTIVE or (server.spec.power == Server.RUNNING and server.spec.reboots <= server.status.reboots)
        assert said != Server.STOPPED or server.spec.power == Server.OFF


@given(seen())
def test_a_server_that_shall_go_is_being_deleted_whatever_else_is_so(seen: Seen) -> None:
    assert (state(seen) == Server.DELETING) == seen.is_leaving


@given(seen())
def test_every_condition_that_does_not_hold_says_why(seen: Seen) -> None:
    for condition in derive(seen, _NOW).status.conditions:
        assert condition.reason
        assert condition.message


def test_a_server_without_room_says_what_the_scheduler_said() -> None:
    because = Condition(type="Placed", status=Condition.FALSE, reason="NO_ROOM", message="no room", fix="ask less")
    because.operator_message = "h1 is full"
    placement = Placement(verdict=Verdict(answer=Verdict.WAITING, because=because))
    server = Server(name="projects/p/servers/s", uid="u", generation=1)
    status = derive(Seen(server, False, placement, None, False, Parts(), (), None), _NOW).status
    placed = next(one for one in status.conditions if one.type == "Placed")
    assert (placed.reason, placed.message, placed.fix, placed.operator_message) == ("NO_ROOM", "no room", "ask less", "h1 is full")
    assert status.state == Server.CREATING


def test_a_process_that_was_not_let_run_makes_no_server_active_nor_is_its_start_told() -> None:
    server = Server(name="projects/p/servers/s", uid="u", generation=1)
    placement = Placement(uid="u", host_uid="h", host="h1", epoch=Epoch(cell=1, host=1))
    facts = ServerFacts(uid="u", power=ServerFacts.RUNNING, virt_type="kvm")
    facts.start_time.FromDatetime(_NOW)
    facts.conditions.add(type="Started", status=Condition.FALSE, reason="STARTING", message="its process is being set up")

    def report() -> Server.Status:
        return derive(Seen(server, False, placement, facts, True, Parts(), (), None), _NOW).status

    def started(status: Server.Status) -> Condition:
        return next(one for one in status.conditions if one.type == "Started")

    waiting = report()
    assert (waiting.state, waiting.power, waiting.HasField("start_time")) == (Server.CREATING, Server.OFF, False)
    assert (started(waiting).status, started(waiting).reason) == (Condition.FALSE, "STARTING")
    facts.conditions[0].status, facts.conditions[0].reason = Condition.TRUE, "RUNNING"
    running = report()
    assert (running.state, running.power, running.start_time) == (Server.ACTIVE, Server.RUNNING, facts.start_time)
    # It stands still, but has begun.
    facts.conditions[0].status, facts.conditions[0].reason = Condition.FALSE, "DISK_REFUSES"
    assert report().state == Server.ACTIVE and started(report()).status == Condition.FALSE
    facts.conditions[0].reason = "STARTING"
    server.spec.power = Server.OFF
    assert report().state == Server.STOPPING


def test_what_only_a_host_knows_is_not_known_while_it_is_silent_and_that_it_is_known_again_is_no_news() -> None:
    server = Server(name="projects/p/servers/s", uid="u", generation=1)
    server.status.state = Server.ACTIVE
    facts = ServerFacts(uid="u", power=ServerFacts.RUNNING)
    facts.start_time.FromDatetime(_NOW)
    facts.conditions.add(type="GuestReady", status=Condition.TRUE, reason="READY")
    placement = Placement(uid="u", host_uid="h", host="h1", epoch=Epoch(cell=1, host=1))

    def report(facts: ServerFacts | None, *, is_host_ready: bool) -> Server.Status:
        status = derive(Seen(server, False, placement, facts, is_host_ready, Parts(), (), None), _NOW).status
        server.status.CopyFrom(status)
        return status

    def holds(status: Server.Status) -> dict[str, int]:
        return {one.type: one.status for one in status.conditions if one.type in ("Started", "GuestReady", "HostAnswers")}

    heard = Server.Status.FromString(report(facts, is_host_ready=True).SerializeToString())
    assert holds(heard) == {"Started": Condition.TRUE, "GuestReady": Condition.TRUE}
    for known in (facts, None):
        silent = Server.Status.FromString(report(known, is_host_ready=False).SerializeToString())
        unknown = Condition.STATUS_UNSPECIFIED
        assert holds(silent) == {"Started": unknown, "GuestReady": unknown, "HostAnswers": Condition.FALSE}
        assert silent.state == Server.ACTIVE
    assert not happened(silent, report(facts, is_host_ready=True), "h1")
