"""An explanation names what really stands in the way: compared with trying every way of lifting filters."""

from itertools import combinations

import numpy as np
from hypothesis import given

from scheduler.explain import explain
from scheduler.filters import FILTERS, Request
from scheduler.snapshot import Host, Hosts
from tests.scheduler.hosts import fits, requests, rows


@given(rows=rows(), request=requests())
def test_the_binding_filters_are_the_fewest_whose_lifting_makes_room(rows: list[Host], request: Request) -> None:
    explanation = explain(Hosts.of(rows), request)
    assert set(explanation.binding) == _fewest_to_lift(rows, request)


@given(rows=rows(), request=requests())
def test_every_host_that_does_not_fit_is_counted_once(rows: list[Host], request: Request) -> None:
    explanation = explain(Hosts.of(rows), request)
    removed = sum(one.host_count for one in explanation.removals)
    assert removed + sum(fits(row, request) for row in rows) == explanation.host_count == len(rows)


@given(rows=rows(), request=requests())
def test_what_is_said_to_fit_does_fit(rows: list[Host], request: Request) -> None:
    explanation = explain(Hosts.of(rows), request)
    smaller = Request(request.uid, explanation.largest_vcpus, explanation.largest_memory_mib, request.reach)
    if smaller.vcpus:
        assert any(fits(row, smaller) for row in rows)


@given(rows=rows(), request=requests())
def test_a_tenant_is_told_of_no_host(rows: list[Host], request: Request) -> None:
    explanation = explain(Hosts.of(rows), request)
    said = f"{explanation.for_tenant()} {explanation.fix()}".split()
    assert not {row.name for row in rows} & set(said)
    assert explanation.reason in ("NO_ROOM", "NO_HOST")


def test_an_operator_is_told_how_many_hosts_each_filter_removed_and_which_came_close() -> None:
    hosts = [
        Host("u1", "h1", up=False, vcpus_limit=16, memory_limit_mib=4096),
        Host("u2", "h2", vcpus_limit=16, memory_limit_mib=1000, memory_claimed_mib=600),
        Host("u3", "h3", vcpus_limit=16, memory_limit_mib=1000, memory_claimed_mib=900),
    ]
    said = explain(Hosts.of(hosts), Request("s", 1, 512)).for_operator()
    assert said == (
        "of 3 hosts 1 do not answer (HOST_DOWN), 2 have too little memory free (NO_MEMORY); "
        "closest: h1 (HOST_DOWN); h2 (400 of 512 MiB free); h3 (100 of 512 MiB free)"
    )


def test_where_no_host_takes_servers_deleting_one_is_not_advised() -> None:
    away = Host("u1", "h1", up=False, vcpus_limit=16, memory_limit_mib=4096)
    full = Host("u2", "h2", vcpus_limit=16, memory_limit_mib=1000, memory_claimed_mib=1000)
    assert "delete" not in explain(Hosts.of([away]), Request("s", 1, 512)).fix()
    assert "delete" in explain(Hosts.of([full]), Request("s", 1, 512)).fix()


def _fewest_to_lift(rows: list[Host], request: Request) -> set[tuple[str, ...]]:
    hosts = Hosts.of(rows)
    for size in range(1, len(FILTERS) + 1):
        found = set()
        for lifted in combinations(FILTERS, size):
            kept = np.ones(len(rows), np.bool_)
            for one in FILTERS:
                if one not in lifted:
                    kept &= one.keeps(hosts, request)
            if kept.any():
                found.add(tuple(one.reason for one in lifted))
        if found:
            return set() if any(fits(row, request) for row in rows) else found
    return set()
