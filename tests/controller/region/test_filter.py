"""What filters of lists mean, against a plain reading of the same comparisons, and what they refuse."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.region.filter import parse
from kumo.api.compute.v1.server_pb2 import Server
from kumo.errors import InvalidArgument
from kumo.rpc.call import Audience

TEXTS = st.text(max_size=12)
KEYS = st.from_regex(r"[a-z]([a-z0-9_./-]{0,8}[a-z0-9])?", fullmatch=True)


def server(name: str = "projects/p/servers/s") -> Server:
    made = Server(name=name, labels={"env": "prod", "kumo.io/a-b": "x"})
    made.spec.nics.add(network="projects/p/networks/a")
    made.spec.nics.add(network="projects/p/networks/b")
    made.status.state = Server.ACTIVE
    made.status.reboots = 3
    made.status.host = "h1"
    return made


@settings(deadline=None)
@given(labels=st.dictionaries(KEYS, TEXTS, max_size=4), key=KEYS, value=TEXTS, equal=st.booleans())
def test_a_comparison_of_a_label_means_what_python_means(labels: dict[str, str], key: str, value: str, equal: bool) -> None:
    text = f"labels.{key} {'=' if equal else '!='} {json.dumps(value)}"
    holds = (key in labels and labels[key] == value) is equal
    assert parse(text, Server.DESCRIPTOR, Audience.TENANT).matches(Server(labels=labels)) is holds


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["0", "1"]), st.booleans()), min_size=1, max_size=5))
def test_all_comparisons_of_a_filter_have_to_hold(pairs: list[tuple[str, str, bool]]) -> None:
    labels = {"a": "0", "b": "1"}
    text = " AND ".join(f'labels.{key} {"=" if equal else "!="} "{value}"' for key, value, equal in pairs)
    holds = all((labels.get(key) == value) is equal for key, value, equal in pairs)
    assert parse(text, Server.DESCRIPTOR, Audience.TENANT).matches(Server(labels=labels)) is holds


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ('status.state = "ACTIVE"', True),
        ("status.state=ACTIVE", True),
        ('status.state != "ACTIVE"', False),
        ('status.reboots = "3"', True),
        ("spec.hard = false", True),
        ('spec.nics.network = "projects/p/networks/b"', True),
        ('spec.nics.network != "projects/p/networks/b"', False),
        ('spec.nics.network != "projects/p/networks/c"', True),
        ('labels.kumo.io/a-b = "x" AND status.state = "ACTIVE"', True),
        ('delete_time = ""', True),
        ('name = "projects/p/servers/s" AND labels.env != "prod"', False),
    ],
)
def test_values_are_compared_as_text(text: str, holds: bool) -> None:
    assert parse(text, Server.DESCRIPTOR, Audience.TENANT).matches(server()) is holds


@pytest.mark.parametrize(
    "text",
    [
        "status",
        "status.state",
        'status.state == "ACTIVE"',
        'status.state = "NOT_A_STATE"',
        'no_such = "x"',
        'labels = "x"',
        'spec = "x"',
        'name.x = "y"',
        'name = "x" OR name = "y"',
        'name = "x" AND',
        'name = "x',
        " AND ".join(['name = "x"'] * 17),
    ],
)
def test_what_cannot_be_read_is_refused_naming_the_field_and_a_fix(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(text, Server.DESCRIPTOR, Audience.OPERATOR)
    assert refused.value.field == "filter"
    assert refused.value.fix


@pytest.mark.parametrize("path", ["status.host", "spec.user_data", "status.placement.shares.cell", "status.cell_epoch"])
def test_a_tenant_cannot_filter_by_what_it_cannot_see(path: str) -> None:
    with pytest.raises(InvalidArgument, match="there is no"):
        parse(f'{path} = "1"', Server.DESCRIPTOR, Audience.TENANT)


def test_an_operator_can_filter_by_host() -> None:
    assert parse('status.host = "h1"', Server.DESCRIPTOR, Audience.OPERATOR).matches(server())


@settings(deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_is_a_filter_or_an_invalid_argument(text: str) -> None:
    try:
        parse(text, Server.DESCRIPTOR, Audience.TENANT).matches(server())
    except InvalidArgument as refused:
        assert refused.fix
