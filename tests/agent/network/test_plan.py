"""Properties of the plan: it converges, rests, and never leaves a tap that nothing guards."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.network import plan
from agent.network.plan import Answer, Entry, Network, ObservedNetwork, ObservedPort, Port, Remote, Tap

MACS = st.integers(0, 255).map(lambda number: f"02:00:00:00:00:{number:02x}")
ADDRESSES = st.integers(1, 254).map(lambda number: f"10.0.0.{number}")
TUNNELS = st.sampled_from(["192.0.2.1", "192.0.2.2"])
REMOTES = st.builds(Remote, MACS, st.lists(ADDRESSES, max_size=2).map(tuple), TUNNELS)
NETWORKS = st.builds(Network, st.just("n"), st.just(65), st.just(1450), st.just(("10.0.0.0/24",)), st.frozensets(REMOTES, max_size=4))
ENTRIES = st.builds(Entry, st.sampled_from([plan.FDB, plan.FAR, plan.ARP]), MACS, st.sampled_from(["", "192.0.2.1", "10.0.0.9"]))
BOOLS = st.booleans()
OBSERVED_NETWORKS = st.builds(ObservedNetwork, BOOLS, BOOLS, BOOLS, st.frozensets(ENTRIES, max_size=4), BOOLS, BOOLS, BOOLS, BOOLS)
PORT = Port("p", "n", 65, 1450, "02:00:00:00:00:01", "10.0.0.1", 24, "s")
OBSERVED_PORTS = st.builds(ObservedPort, BOOLS, st.sampled_from(Answer), BOOLS, BOOLS, BOOLS, st.sampled_from(Tap), BOOLS)


def after_network_step(observed: ObservedNetwork, step: plan.NetworkStep) -> ObservedNetwork:
    """Return what is so when a step was taken."""
    match step:
        case plan.Record():
            return replace(observed, recorded=True)
        case plan.MakeBridge():
            return replace(observed, bridge=True, tunnel=False, metadata=False, anything=True)
        case plan.MakeMetadata():
            return replace(observed, metadata=True, served=False)
        case plan.AdmitTunnels():
            return replace(observed, tunnels_admitted=True)
        case plan.MakeTunnel():
            return replace(observed, tunnel=True, entries=frozenset(e for e in observed.entries if e.kind == plan.ARP))
        case plan.ChangeEntries(added, removed):
            return replace(observed, entries=(observed.entries - removed) | added)
        case plan.Serve():
            return replace(observed, served=True)
        case plan.RemoveNetwork():
            return ObservedNetwork(recorded=observed.recorded)


def after_port_step(observed: ObservedPort, step: plan.PortStep) -> ObservedPort:
    match step:
        case plan.AwaitNetwork():
            return replace(observed, network_ready=True)
        case plan.PutAnswer():
            return replace(observed, answer=Answer.RIGHT)
        case plan.PutReachable():
            return replace(observed, reachable=True)
        case plan.PutRules():
            return replace(observed, rules=True)
        case plan.Admit():
            return replace(observed, admitted=True)
        case plan.Plug():
            return replace(observed, tap=Tap.PLUGGED)
        case plan.RemovePort():
            tap = Tap.ABSENT if observed.tap is Tap.ABSENT else Tap.LOOSE
            return ObservedPort(network_ready=observed.network_ready, tap=tap)


@given(desired=st.none() | NETWORKS, observed=OBSERVED_NETWORKS)
def test_a_network_converges_and_rests(desired: Network | None, observed: ObservedNetwork) -> None:
    for _ in range(12):
        step = plan.plan_network(desired, observed)
        if step is None:
            break
        observed = after_network_step(observed, step)
    assert plan.plan_network(desired, observed) is None
    if desired is None:
        assert not observed.anything
    else:
        assert observed.bridge and observed.tunnel and observed.metadata and observed.served
        assert observed.entries == desired.entries()


@given(desired=NETWORKS, observed=OBSERVED_NETWORKS)
def test_a_tunnel_is_made_only_when_strangers_are_kept_out(desired: Network, observed: ObservedNetwork) -> None:
    if plan.plan_network(desired, observed) == plan.MakeTunnel():
        assert observed.tunnels_admitted


@given(desired=st.none() | st.just(PORT), observed=OBSERVED_PORTS)
def test_a_port_converges_and_rests(desired: Port | None, observed: ObservedPort) -> None:
    for _ in range(12):
        step = plan.plan_port(desired, observed)
        if step is None:
            break
        observed = after_port_step(observed, step)
    assert plan.plan_port(desired, observed) is None
    if desired is None:
        assert not observed.anything and observed.tap is not Tap.PLUGGED
    else:
        assert observed.bound and observed.tap is not Tap.LOOSE


@given(observed=OBSERVED_PORTS)
def test_a_tap_is_admitted_and_plugged_in_only_under_rules(observed: ObservedPort) -> None:
    step = plan.plan_port(PORT, observed)
    if step in (plan.Admit(), plan.Plug()):
        assert observed.rules and observed.answer is Answer.RIGHT
    if step == plan.Plug():
        assert observed.bound


@given(remotes=st.frozensets(REMOTES, max_size=4))
def test_entries_say_where_each_remote_port_is(remotes: frozenset[Remote]) -> None:
    entries = Network("n", 65, 1450, (), remotes).entries()
    for remote in remotes:
        assert {Entry(plan.FDB, remote.mac), Entry(plan.FAR, remote.mac, remote.tunnel_address)} <= entries
        assert all(Entry(plan.ARP, remote.mac, address) in entries for address in remote.addresses)
