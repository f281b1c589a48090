"""Which fields an update changes, and how it names those that it does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.region.mask import apply
from kumo.api.network.v1.subnet_pb2 import Subnet
from kumo.errors import InvalidArgument

CHANGEABLE = ("labels", "spec.dns_servers")
KEYS = st.sampled_from(["a", "b", "kumo.io/c"])
LABELS = st.dictionaries(KEYS, st.sampled_from(["", "1", "2"]))


def subnet(labels: dict[str, str], servers: list[str] | None = None) -> Subnet:
    made = Subnet(name="projects/p/subnets/s", uid="u", labels=labels)
    made.spec.cidr, made.spec.network = "10.0.0.0/24", "projects/p/networks/n"
    made.spec.dns_servers.extend(servers or [])
    return made


@settings(deadline=None)
@given(before=LABELS, after=LABELS)
def test_a_whole_map_is_replaced(before: dict[str, str], after: dict[str, str]) -> None:
    current = subnet(before, ["1.1.1.1"])
    changed = apply(current, Subnet(labels=after), ["labels"], CHANGEABLE, "subnet")
    assert (dict(current.labels), list(current.spec.dns_servers)) == (after, ["1.1.1.1"])
    assert changed is (before != after)


@settings(deadline=None)
@given(before=LABELS, after=LABELS, key=KEYS)
def test_one_key_of_a_map_is_set_or_removed(before: dict[str, str], after: dict[str, str], key: str) -> None:
    current = subnet(before)
    apply(current, Subnet(labels=after), [f"labels.{key}"], CHANGEABLE, "subnet")
    assert dict(current.labels) == {k: v for k, v in before.items() if k != key} | ({key: after[key]} if key in after else {})


@settings(deadline=None)
@given(before=LABELS, after=LABELS, servers=st.lists(st.sampled_from(["1.1.1.1", "2.2.2.2"]), max_size=3))
def test_no_mask_means_all_that_may_change_and_twice_is_once(before: dict[str, str], after: dict[str, str], servers: list[str]) -> None:
    current = subnet(before, ["9.9.9.9"])
    apply(current, subnet(after, servers), [], CHANGEABLE, "subnet")
    assert current == subnet(after, servers)
    assert not apply(current, subnet(after, servers), ["*"], CHANGEABLE, "subnet")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("spec.cidr", "MASK_PATH_FIXED"),
        ("spec", "MASK_PATH_FIXED"),
        ("name", "MASK_PATH_FIXED"),
        ("status.state", "MASK_PATH_FIXED"),
        ("spec.network_uid", "MASK_PATH_FIXED"),
        ("etag", "MASK_PATH_FIXED"),
        ("spec.nothing", "MASK_PATH_UNKNOWN"),
        ("spec.dns_servers.0", "MASK_PATH_UNKNOWN"),
        ("", "MASK_PATH_UNKNOWN"),
        ("labels.", "MASK_PATH_UNKNOWN"),
    ],
)
def test_a_path_that_cannot_be_changed_is_refused_by_name_and_nothing_changes(path: str, reason: str) -> None:
    current = subnet({"a": "1"})
    with pytest.raises(InvalidArgument) as refused:
        apply(current, subnet({}), ["labels", path], CHANGEABLE, "subnet")
    assert (refused.value.reason, refused.value.metadata["path"]) == (reason, path)
    assert "labels" in refused.value.fix
    assert current == subnet({"a": "1"})


def test_without_a_mask_another_value_of_a_fixed_field_is_refused_and_the_same_one_is_not() -> None:
    wanted = subnet({"a": "2"})
    wanted.spec.cidr = "10.0.1.0/24"
    with pytest.raises(InvalidArgument) as refused:
        apply(subnet({}), wanted, [], CHANGEABLE, "subnet")
    assert refused.value.field == "subnet.spec.cidr"
