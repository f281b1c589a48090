"""A host is down only after the grace, and a host that was never heard is never down."""

from hypothesis import given
from hypothesis import strategies as st

from controller.cell.fleet.host.plan import GRACE_S, World, judge
from kumo.api.fleet.v1.host_pb2 import Host

_STATES = st.sampled_from([Host.STATE_UNSPECIFIED, Host.JOINING, Host.UP, Host.DOWN])


@given(_STATES, st.floats(0, 60))
def test_a_silent_host_is_down_only_after_the_grace(before: Host.State.ValueType, silent_s: float) -> None:
    verdict = judge(World(before, is_ready=False, silent_s=silent_s))
    if before == Host.UP:
        assert (verdict.state == Host.DOWN) == (silent_s >= GRACE_S)
    if verdict.look_again_s is not None:
        assert judge(World(verdict.state, is_ready=False, silent_s=silent_s + verdict.look_again_s + 0.001)).state == Host.DOWN


@given(_STATES, st.floats(0, 60))
def test_a_host_that_was_never_heard_is_joining(before: Host.State.ValueType, silent_s: float) -> None:
    state = judge(World(before, is_ready=False, silent_s=silent_s)).state
    assert (state == Host.JOINING) == (before in (Host.STATE_UNSPECIFIED, Host.JOINING))


@given(_STATES)
def test_a_host_that_answers_is_up(before: Host.State.ValueType) -> None:
    assert judge(World(before, is_ready=True)).state == Host.UP
