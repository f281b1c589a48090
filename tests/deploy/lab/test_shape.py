"""Which nodes a lab has and where they are."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.lab.shape import PLANES, Shape, load, picture
from deploy.layout import Port, Role

NUMBERS = st.sets(st.integers(1, 200), min_size=1, max_size=12)


@given(NUMBERS, st.sampled_from(["ipv4", "ipv6"]), st.sampled_from([1, 4]))
def test_no_two_listeners_of_a_lab_have_one_address(numbers: set[int], underlay: str, networks: int) -> None:
    shape = Shape(Path("/lab"), tuple(f"h{number}" for number in numbers), underlay, networks)  # type: ignore[arg-type]  # both are Underlay
    for plane in PLANES:
        addresses = [getattr(shape.addresses(name), plane) for name in shape.nodes]
        assert len(set(addresses)) == len(shape.nodes)
    for name in shape.nodes:
        own = shape.addresses(name)
        assert len({getattr(own, plane) for plane in PLANES}) == networks
        assert shape.node(name).address(Port.API) == "127.0.0.1:7400", "nobody else may ask before there is identity"


def test_each_role_has_its_nodes() -> None:
    shape = Shape(Path("/lab"), ("h1", "h2"))
    roles = {name: shape.node(name).roles for name in shape.nodes}
    assert [name for name in roles if Role.CONTROLLER in roles[name]] == ["c1", "c2"]
    assert [name for name in roles if Role.HOST in roles[name]] == ["h1", "h2"]
    assert [name for name in roles if roles[name] & {Role.STORE, Role.CEPH}] == ["c1"]


@pytest.mark.parametrize("hosts", [("h0",), ("h201",), ("c1",), ("h1", "h1"), ("underlay",), ("h1\n",)])
def test_hosts_that_cannot_be_are_refused(hosts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="host"):
        Shape(Path("/lab"), hosts)


def test_a_lab_is_found_again_as_it_was(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    shape = Shape(tmp_path, ("h1", "h7"), "ipv6", 4, foreign_firewall=True)
    shape.save()
    assert load(tmp_path) == shape


def test_the_picture_names_each_node_with_its_state_its_parts_and_its_addresses() -> None:
    shape = Shape(Path("/lab"), ("h1",), "ipv4", 4)
    drawn = picture(shape, {"c1": "running", "c2": "off", "h1": "without kumo-agent"})
    assert "without kumo-agent" in drawn and "off" in drawn and "libvirt, agent" in drawn
    for plane in PLANES:
        assert f"{plane} {getattr(shape.addresses('h1'), plane)}" in drawn
