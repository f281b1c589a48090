"""Who waits for room is tried in a fair order, and nobody is woken for nothing."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler.filters import Request
from scheduler.queue import Waiting, fair_order, fitting_now
from scheduler.snapshot import Host
from tests.scheduler.hosts import requests, rows


@st.composite
def waiting(draw: st.DrawFn) -> list[Waiting]:
    asked = draw(st.lists(requests(), max_size=15, unique_by=lambda request: request.uid))
    return [Waiting(request, draw(st.sampled_from("abc")), draw(st.integers(0, 5))) for request in asked]


@given(waiting())
def test_projects_take_turns(waiting: list[Waiting]) -> None:
    seen: dict[str, int] = dict.fromkeys("abc", 0)
    total = {project: sum(one.project_uid == project for one in waiting) for project in "abc"}
    for one in fair_order(waiting):
        seen[one.project_uid] += 1
        for other in "abc":
            assert seen[other] >= min(total[other], seen[one.project_uid] - 1)


@given(waiting())
def test_within_a_project_who_came_first_goes_first(waiting: list[Waiting]) -> None:
    for project in "abc":
        since = [one.since for one in fair_order(waiting) if one.project_uid == project]
        assert since == sorted(since)


@given(rows=rows(), waiting=waiting())
def test_those_who_are_woken_fit_together(rows: list[Host], waiting: list[Waiting]) -> None:
    woken = fitting_now(rows, waiting, most=100)
    by_uid = {one.request.uid: one.request for one in waiting}
    able = [row for row in rows if row.up and row.runs_servers and not row.cordoned]
    assert sum(by_uid[uid].vcpus for uid in woken) <= sum(max(0, row.vcpus_limit - row.vcpus_claimed) for row in able)
    assert len(set(woken)) == len(woken)


def test_one_that_is_too_big_does_not_hold_up_the_rest() -> None:
    hosts = [Host("u", "h", vcpus_limit=4, memory_limit_mib=100)]
    queue = [Waiting(Request("big", 8, 10), "a", 1), Waiting(Request("small", 1, 10), "a", 2)]
    assert fitting_now(hosts, queue, most=10) == ["small"]
