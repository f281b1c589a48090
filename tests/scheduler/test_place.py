"""What a choice promises, against a plain reference and for any hosts."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from scheduler.filters import Request
from scheduler.place import Choice, NoRoom, place
from scheduler.snapshot import Host, Hosts, HostTable
from tests.scheduler.hosts import fits, requests, rows


@given(rows=rows(), request=requests(), order=st.randoms(use_true_random=False))
def test_the_order_of_hosts_does_not_matter(rows: list[Host], request: Request, order: object) -> None:
    shuffled = list(rows)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert _chosen(rows, request) == _chosen(shuffled, request)


@given(rows=rows(), request=requests())
def test_a_host_is_chosen_exactly_when_one_fits_and_it_fits(rows: list[Host], request: Request) -> None:
    uid = _chosen(rows, request)
    able = {row.uid for row in rows if fits(row, request)}
    assert uid in able if able else uid is None


@given(rows=rows(), request=requests())
def test_the_chosen_host_has_most_left_of_what_it_is_shortest_of(rows: list[Host], request: Request) -> None:
    def left(row: Host) -> float:
        vcpus = (row.vcpus_limit - row.vcpus_claimed - request.vcpus) / max(1, row.vcpus_limit)
        memory = (row.memory_limit_mib - row.memory_claimed_mib - request.memory_mib) / max(1, row.memory_limit_mib)
        return min(vcpus, memory)

    uid = _chosen(rows, request)
    if uid is not None:
        assert left(next(row for row in rows if row.uid == uid)) == max(left(row) for row in rows if fits(row, request))


@given(rows=rows(), asked=st.lists(requests(), max_size=30))
def test_no_host_is_ever_filled_above_its_limits(rows: list[Host], asked: list[Request]) -> None:
    table = HostTable()
    for row in rows:
        table.put(row)
    before = {row.uid: row for row in table.rows()}
    for request in asked:
        choice = place(table.hosts, request)
        if isinstance(choice, Choice):
            table.claim(choice.host_uid, request.vcpus, request.memory_mib)
    for row in table.rows():
        assert row.vcpus_claimed <= max(row.vcpus_limit, before[row.uid].vcpus_claimed)
        assert row.memory_claimed_mib <= max(row.memory_limit_mib, before[row.uid].memory_claimed_mib)


def test_equal_hosts_share_the_servers() -> None:
    hosts = [Host(f"u{number}", f"h{number}", vcpus_limit=1000, memory_limit_mib=1000) for number in range(8)]
    chosen = {_chosen(hosts, Request(f"server-{number}", 1, 1)) for number in range(200)}
    assert chosen == {row.uid for row in hosts}


@given(rows=rows(), changes=st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=20))
def test_the_table_holds_what_was_put_in_and_not_removed(rows: list[Host], changes: list[tuple[int, bool]]) -> None:
    table, plain = HostTable(room=1), {row.uid: row for row in rows}
    for row in rows:
        table.put(row)
    for number, stays in changes:
        found = plain.get(f"u{number}")
        plain = {uid: other for uid, other in plain.items() if uid != f"u{number}"}
        if stays and found is not None:
            plain[found.uid] = replace(found, cordoned=not found.cordoned, vcpus_claimed=found.vcpus_claimed + 1)
            table.put(plain[found.uid])
        else:
            table.remove(f"u{number}")
    assert {row.uid: row for row in table.rows()} == plain


def _chosen(rows: list[Host], request: Request) -> str | None:
    match place(Hosts.of(rows), request):
        case Choice(uid):
            return uid
        case NoRoom():
            return None
