"""A host is down only after the grace, one that was never heard is never down, and an older agent is told from one that works."""

from hypothesis import given
from hypothesis import strategies as st

from agent.config import ROLES
from controller.cell.fleet.host.plan import GRACE_S, World, judge, lacking
from kumo.api.agent.v1.agent_pb2 import HostFacts
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.capabilities import capabilities

_STATES = st.sampled_from([Host.STATE_UNSPECIFIED, Host.JOINING, Host.UP, Host.DOWN])
_ROLES = st.frozensets(st.sampled_from(ROLES))


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


@given(_ROLES)
def test_an_agent_of_this_version_lacks_nothing_and_one_that_says_nothing_lacks_all(roles: frozenset[str]) -> None:
    asked = capabilities(roles)
    assert lacking(HostFacts(roles=roles, capabilities=asked)) == []
    assert lacking(HostFacts(roles=roles)) == asked


@given(_ROLES, st.data())
def test_an_older_agent_lacks_what_it_has_not_got_and_a_newer_one_nothing(roles: frozenset[str], data: st.DataObject) -> None:
    asked = capabilities(roles)
    missing = data.draw(st.sets(st.sampled_from(asked)))
    older = [*(one for one in asked if one not in missing), "Storage/SomethingNew"]
    assert lacking(HostFacts(roles=roles, capabilities=older)) == sorted(missing)
