"""Rows that travel are what a message would be, and are made anew when their record changes."""

from hypothesis import given
from hypothesis import strategies as st

from controller.region.rows import Rows
from kumo.api.fleet.v1.host_pb2 import Host, ListHostsResponse
from kumo.rpc.call import Audience
from kumo.store.record import Entry

FIELD = ListHostsResponse.DESCRIPTOR.fields_by_name["hosts"]


def entry(text: str, revision: int) -> Entry:
    intent = Host(name=f"hosts/{text}", uid="u").SerializeToString()
    return Entry("u", f"hosts/{text}", intent, revision, b"", 0, b"", 0)


def show(one: Entry) -> Host:
    return Host.FromString(one.intent)


@given(texts=st.lists(st.text("abc", max_size=300), max_size=4))
def test_rows_one_behind_the_other_are_the_answer(texts: list[str]) -> None:
    rows = Rows(FIELD)
    data = b"".join(rows.made(entry(text, 1), Audience.OPERATOR, show) for text in texts)
    assert [host.name for host in ListHostsResponse.FromString(data).hosts] == [f"hosts/{text}" for text in texts]


def test_a_row_is_made_again_only_when_its_record_changed() -> None:
    rows, made = Rows(FIELD), []

    def counted(one: Entry) -> Host:
        made.append(one)
        return show(one)

    first, second = entry("a", 1), entry("b", 2)
    for one in (first, first, second, second):
        rows.of(one, Audience.OPERATOR, counted)
    assert made == [first, second]
    assert ListHostsResponse.FromString(rows.of(second, Audience.OPERATOR, counted)).hosts[0].name == "hosts/b"


def test_each_audience_has_rows_of_its_own() -> None:
    rows, one = Rows(FIELD), entry("a", 1)
    assert rows.of(one, Audience.OPERATOR, show) != rows.of(one, Audience.TENANT, show)
