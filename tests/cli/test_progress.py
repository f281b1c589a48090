"""From a server's status alone the CLI knows which steps are done, whether it has arrived, and why it never will."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.failure import Exit, Failure
from cli.nouns import NOUNS
from cli.progress import condition_type, progress
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.type.v1.condition_pb2 import Condition

NOUN = NOUNS["server"]


def server(state: str, *conditions: tuple[str, int], generation: int = 1, observed: int = 1) -> Server:
    made = Server(name="projects/p/servers/s", generation=generation)
    made.status.state = Server.State.Value(state)
    made.status.observed_generation = observed
    for kind, status in conditions:
        made.status.conditions.add(
            type=kind, status=Condition.Status.ValueType(status), message=f"about {kind}", fix=f"mend {kind}", reason=kind.upper()
        )
    return made


def test_a_server_has_arrived_when_it_rests_at_the_generation_asked_for() -> None:
    assert progress(NOUN, server("ACTIVE"), "settled").reached
    assert progress(NOUN, server("STOPPED"), "settled").reached
    assert not progress(NOUN, server("CREATING"), "settled").reached
    assert not progress(NOUN, server("ACTIVE", generation=2), "settled").reached


def test_ready_waits_for_what_the_guest_says() -> None:
    assert not progress(NOUN, server("ACTIVE"), "ready").reached
    assert progress(NOUN, server("ACTIVE", ("GuestReady", 1)), "ready").reached


def test_an_old_report_and_one_of_a_silent_host_are_not_believed() -> None:
    stale = progress(NOUN, server("ACTIVE", ("GuestReady", 1), ("Fresh", 2)), "ready")
    assert (stale.reached, stale.obstacle) == (False, "about Fresh")
    assert not progress(NOUN, server("ACTIVE", ("GuestReady", 0), ("HostAnswers", 2)), "ready").reached


def test_no_room_is_an_obstacle_with_a_fix_and_not_a_failure() -> None:
    now = progress(NOUN, server("CREATING", ("Placed", 2)), "settled")
    assert (now.obstacle, now.fix, now.failure) == ("about Placed", "mend Placed", None)


def test_a_failed_server_says_why() -> None:
    failure = progress(NOUN, server("FAILED", ("DiskReady", 2)), "settled").failure
    assert failure is not None
    assert (failure.because, failure.fix, failure.reason) == ("about DiskReady", "mend DiskReady", "DISKREADY")


@given(
    st.lists(
        st.tuples(st.sampled_from(["Placed", "DiskReady", "PortsReady", "Started", "GuestReady"]), st.integers(0, 2)),
        max_size=5,
        unique_by=lambda pair: pair[0],
    ),
    st.sampled_from(["settled", "ready"]),
)
def test_steps_are_told_in_their_order_and_only_when_true(conditions: list[tuple[str, int]], until: str) -> None:
    done = progress(NOUN, server("CREATING", *conditions), until).done_steps
    order = [*NOUN.waits_for, "GuestReady"]
    assert list(done) == sorted(done, key=order.index)
    assert set(done) <= {kind for kind, status in conditions if status == 1}


def test_what_a_noun_never_says_cannot_be_waited_for() -> None:
    for noun, until in ((NOUN, "bogus"), (NOUNS["flavor"], "ready")):
        with pytest.raises(Failure) as caught:
            condition_type(noun, until)
        assert caught.value.exit == Exit.USAGE and "settled" in caught.value.because


def test_ready_is_what_the_noun_calls_so() -> None:
    assert (condition_type(NOUN, "ready"), condition_type(NOUNS["volume"], "ready")) == ("GuestReady", "Ready")
    assert condition_type(NOUN, "DiskReady") == condition_type(NOUN, "diskready") == "DiskReady"


def test_a_stopped_server_is_not_waited_for_to_be_ready() -> None:
    stopped = server("STOPPED", ("GuestReady", 2))
    stopped.spec.power = Server.OFF
    failure = progress(NOUN, stopped, "ready").failure
    assert failure is not None and failure.fix == "kumo server start s"
    assert progress(NOUN, stopped, "settled").reached
