"""A host is down only after the grace, one that was never heard is never down, an older agent is told from one that works, and a host
whose links are not as its record says is told from one that fits.
"""

from hypothesis import given
from hypothesis import strategies as st

from agent.config import ROLES
from controller.cell.fleet.host.plan import GRACE_S, World, judge, lacking, misfits
from kumo.api.agent.v1.agent_pb2 import HostAddress, HostFacts
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


SPEC = Host.Spec(tunnel_address="10.1.0.5", storage_address="10.2.0.5", migration_address="10.3.0.5")


def told(**mtus: int) -> HostFacts:
    """What an agent says whose links, named after their planes, carry so much."""
    addresses = {"tunnel": "10.1.0.5", "storage": "10.2.0.5", "migration": "10.3.0.5"}
    found = [HostAddress(address=addresses[plane], link=plane, mtu=mtu) for plane, mtu in mtus.items()]
    return HostFacts(addresses=[HostAddress(address="127.0.0.1", link="lo", mtu=65536), *found], tunnel_address="10.1.0.5")


def test_a_host_with_its_addresses_on_links_that_carry_enough_fits() -> None:
    assert misfits(SPEC, told(tunnel=1500, storage=1400, migration=9000), 1500) == []
    assert misfits(SPEC, HostFacts(), 1500) == [], "an older agent does not say"


def test_a_host_without_an_address_of_its_record_does_not_fit() -> None:
    (found,) = misfits(SPEC, told(tunnel=1500, storage=1500), 1500)
    assert found.reason == "PLANE_ADDRESS_MISSING"
    assert "10.3.0.5, its address on the migration plane" in found.message and "10.1.0.5 on tunnel" in found.message
    without = Host.Spec(tunnel_address="10.1.0.5", storage_address="10.2.0.5")
    assert misfits(without, told(tunnel=1500, storage=1500), 1500) == []


def test_tunnels_that_leave_from_another_address_than_others_send_to_do_not_fit() -> None:
    facts = told(tunnel=1500, storage=1500, migration=1500)
    facts.tunnel_address = "10.2.0.5"
    (found,) = misfits(SPEC, facts, 1500)
    assert found.reason == "TUNNEL_ADDRESS_DIFFERS"


def test_a_link_that_carries_less_than_tunnels_need_does_not_fit() -> None:
    (found,) = misfits(SPEC, told(tunnel=1499, storage=1500, migration=1500), 1500)
    assert found.reason == "PLANE_MTU_SMALL" and "ip link set tunnel mtu 1500" in found.fix


def test_ipv6_tunnels_need_more_and_addresses_may_be_spelt_in_several_ways() -> None:
    spec = Host.Spec(tunnel_address="FD00:0::5", storage_address="fd00::5")
    for mtu, fits in ((1500, True), (1499, False)):
        facts = HostFacts(addresses=[HostAddress(address="fd00::5", link="eth1", mtu=mtu)], tunnel_address="fd00:0:0::5")
        assert (misfits(spec, facts, 1480) == []) is fits
