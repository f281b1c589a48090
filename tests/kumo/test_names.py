"""Resource names: what is built can be read, and what cannot be read is refused by name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumo.errors import InvalidArgument
from kumo.ids import is_uid, new_uid
from kumo.names import Pattern, check_id, collection_of, id_of, join, parent_of, project_of

SERVER = Pattern("projects/{project}/servers/{server}")
FLAVOR = Pattern("flavors/{flavor}")
IDS = st.from_regex(re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"), fullmatch=True)


@given(project=IDS, server=IDS)
def test_a_name_is_read_as_it_was_built(project: str, server: str) -> None:
    name = SERVER.format(project=project, server=server)
    assert SERVER.parse(name) == {"project": project, "server": server}
    assert SERVER.matches(name)
    assert (parent_of(name), id_of(name), collection_of(name)) == (f"projects/{project}", server, "servers")
    assert project_of(name) == f"projects/{project}"
    assert SERVER.child(f"projects/{project}", server) == join(parent_of(name), "servers", server) == name


@given(text=st.text())
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    try:
        assert SERVER.format(**SERVER.parse(text, field="server.name")) == text
    except InvalidArgument as error:
        assert error.field == "server.name" and error.reason == "NAME_MALFORMED"


@pytest.mark.parametrize("own_id", ["", "A", "1a", "a-", "-a", "a_b", "a/b", "a" * 64, "a\n", "é", "."])
def test_a_malformed_id_is_refused(own_id: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_id(own_id, field="server_id")
    assert caught.value.field == "server_id" and caught.value.fix


def test_a_name_at_the_top_has_no_parent() -> None:
    name = FLAVOR.child("", "small")
    assert (name, parent_of(name), project_of(name), FLAVOR.parent, FLAVOR.collection) == ("flavors/small", "", "", "", "flavors")
    assert SERVER.variables == ("project", "server")


def test_a_child_of_the_wrong_parent_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        SERVER.child("flavors/small", "s")
    assert caught.value.field == "parent"


def test_uids_are_ordered_by_time_and_never_the_same() -> None:
    uids = [new_uid() for _ in range(1000)]
    assert sorted(set(uids)) == uids
    assert all(is_uid(uid) for uid in uids)
    assert not is_uid("6f1c6a3e-3b0a-4d2e-9c55-0e2c9d1b7a10")
