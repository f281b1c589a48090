"""Limits hold, and forget those who have not asked for long."""

from hypothesis import given
from hypothesis import strategies as st

from agent.guest.limits import RateLimit, Tokens


@given(gaps=st.lists(st.floats(0, 0.5), max_size=200))
def test_nobody_gets_more_than_the_rate_and_what_was_saved_up(gaps: list[float]) -> None:
    limit, now, allowed = RateLimit(per_second=10, burst=5), 0.0, 0
    for gap in gaps:
        now += gap
        allowed += limit.allows("a", now)
    assert allowed <= 5 + now * 10 + 1e-6


def test_one_asker_does_not_use_up_anothers_share() -> None:
    limit = RateLimit(per_second=1, burst=2)
    assert [limit.allows("a", 0.0) for _ in range(3)] == [True, True, False]
    assert limit.allows("b", 0.0)
    assert limit.allows("a", 1.0) and not limit.allows("a", 1.0)


def test_only_so_many_askers_are_remembered() -> None:
    limit = RateLimit(per_second=1, burst=1, most_askers=10)
    for number in range(1000):
        limit.allows(str(number), 0.0)
    assert len(limit._buckets) <= 10


def test_a_token_is_good_for_its_port_and_its_time() -> None:
    tokens = Tokens(most_of_port=2)
    tokens.add("one", "p1", until=10.0)
    assert tokens.is_valid("one", "p1", 9.0)
    assert not tokens.is_valid("one", "p2", 9.0)
    assert not tokens.is_valid("one", "p1", 10.0)
    assert not tokens.is_valid("", "p1", 0.0)
    tokens.add("two", "p1", until=10.0)
    tokens.add("three", "p1", until=10.0)
    assert not tokens.is_valid("one", "p1", 0.0) and tokens.is_valid("three", "p1", 0.0)
