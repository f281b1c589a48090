"""Sightings of several hosts against plain dictionaries, for any history of what agents say, take back and come back with."""

from hypothesis import given
from hypothesis import strategies as st

from controller.cell.sightings import Sightings, Whereabouts
from kumo.api.agent.v1.compute_pb2 import ServerFacts

HOSTS, UIDS = ("h1", "h2", "h3"), ("a", "b", "c")
POWERS = st.sampled_from([ServerFacts.RUNNING, ServerFacts.OFF, ServerFacts.ABSENT, None])
# Of which host and which server, and what is said: nothing takes back what was.
SAYINGS = st.lists(st.tuples(st.sampled_from(HOSTS), st.sampled_from(UIDS), POWERS))


@given(SAYINGS)
def test_what_was_said_last_is_kept_and_it_is_known_who_said_anything(
    sayings: list[tuple[str, str, "ServerFacts.Power.ValueType | None"]],
) -> None:
    where = Whereabouts()
    kept = {host: Sightings(ServerFacts, host, where) for host in HOSTS}
    model: dict[str, dict[str, ServerFacts]] = {host: {} for host in HOSTS}
    for host, uid, power in sayings:
        if power is not None:
            kept[host][uid] = model[host][uid] = ServerFacts(uid=uid, power=power)
        elif uid in kept[host]:
            del kept[host][uid], model[host][uid]
        assert {host: dict(sightings) for host, sightings in kept.items()} == model
        for thing in UIDS:
            assert where.hosts(thing) == {host for host in HOSTS if thing in model[host]}


def test_a_host_that_is_forgotten_takes_nothing_from_its_successor() -> None:
    where = Whereabouts()
    first, second = (Sightings(ServerFacts, "h1", where) for _ in range(2))
    first["a"] = second["a"] = ServerFacts(uid="a")
    first.clear()
    assert where.hosts("a") == {"h1"}
    second.clear()
    assert not where.hosts("a")


def test_what_is_read_is_the_readers_own() -> None:
    kept = Sightings(ServerFacts, "h1", Whereabouts())
    kept["a"] = ServerFacts(uid="a", power=ServerFacts.OFF)
    kept["a"].power = ServerFacts.ABSENT
    assert kept["a"].power == ServerFacts.OFF
    assert kept.get("b") is None
