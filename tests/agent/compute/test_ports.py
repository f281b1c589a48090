"""A tap counts as lost when it is away for a while and the guest runs."""

from hypothesis import given
from hypothesis import strategies as st

from agent.compute.ports import LOST_AFTER_S, ServerPorts, Unplugged
from agent.facts import FactBook
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest, DesiredNic, DesiredServer
from kumo.api.agent.v1.network_pb2 import PortFacts

PORTS = ("one", "two")
COMMAND = ApplyServerRequest(uid="s", desired=DesiredServer(nics=[DesiredNic(port_uid=uid) for uid in PORTS]))


@given(st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from(PORTS)), st.floats(0.01, 2 * LOST_AFTER_S)), max_size=20))
def test_it_is_lost_exactly_when_the_guest_ran_without_it_all_the_while(moments: list[tuple[bool, set[str], float]]) -> None:
    book = FactBook(frozenset())
    ports = ServerPorts(book, has_taps=True)
    now, found = 100.0, Unplugged()
    since: float | None = None
    for runs, plugged, lasts_s in moments:
        for uid in PORTS:
            book.set_port(PortFacts(uid=uid, binding=PortFacts.BOUND, plugged=uid in plugged))
        found = ports.look(COMMAND, runs=runs, before=found, now=now)
        since = (now if since is None else since) if runs and plugged != set(PORTS) else None
        assert found.is_lost(now) == (since is not None and now - since >= LOST_AFTER_S)
        again_s = found.again_s(now)
        assert (again_s is not None) == (since is not None and not found.is_lost(now))
        assert again_s is None or 0 < again_s <= LOST_AFTER_S
        now += lasts_s


def test_guests_without_taps_lose_none() -> None:
    book = FactBook(frozenset())
    book.set_port(PortFacts(uid="one", binding=PortFacts.BOUND))
    assert ServerPorts(book, has_taps=True).unplugged(COMMAND) == "one"
    assert ServerPorts(book, has_taps=False).unplugged(COMMAND) == ""
