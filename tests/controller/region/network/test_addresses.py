"""Properties of the choice of addresses: complete, without repetition, spread, and never one that is reserved."""

import itertools
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.region.network.addresses import candidates, mac_of, overlapping, parse_range, vni_candidates
from kumo.errors import InvalidArgument

SEEDS = st.binary(min_size=1, max_size=16)


@st.composite
def networks(draw: st.DrawFn) -> IPv4Network:
    length = draw(st.integers(22, 29))
    start = draw(st.integers(0, (1 << length) - 1)) << (32 - length)
    network = IPv4Network((start, length))
    return (
        network
        if network.is_private and not network.is_loopback and network.network_address != IPv4Address("0.0.0.0")
        else IPv4Network((10 << 24, length))
    )


@settings(deadline=None)
@given(network=networks(), seed=SEEDS, data=st.data())
def test_every_address_but_the_reserved_ones_comes_exactly_once(network: IPv4Network, seed: bytes, data: st.DataObject) -> None:
    if network.is_link_local or network.is_multicast:
        return
    gateway = data.draw(st.sampled_from(list(network.hosts())[:50]))
    addresses = parse_range(str(network), str(gateway))
    found = list(candidates(addresses, seed))
    assert len(found) == len(set(found)) == addresses.count
    assert set(found) == set(network.hosts()) - {gateway}
    assert all(addresses.offers(address) for address in found)


@settings(deadline=None)
@given(seeds=st.lists(SEEDS, min_size=20, max_size=20, unique=True))
def test_different_seeds_rarely_begin_with_the_same_address(seeds: list[bytes]) -> None:
    addresses = parse_range("10.0.0.0/8", "")
    assert len({next(candidates(addresses, seed)) for seed in seeds}) >= 18


@settings(deadline=None)
@given(seed=SEEDS)
def test_a_mac_is_a_unicast_one_of_kumos_range_and_depends_on_the_seed_alone(seed: bytes) -> None:
    assert mac_of(seed).startswith("02:6b:")
    assert len(mac_of(seed)) == 17
    assert mac_of(seed) == mac_of(seed)


@settings(deadline=None)
@given(seed=SEEDS)
def test_vxlan_numbers_stay_in_their_24_bits_and_do_not_repeat(seed: bytes) -> None:
    found = list(itertools.islice(vni_candidates(seed), 500))
    assert len(set(found)) == 500
    assert all(4096 <= vni < 1 << 24 for vni in found)


@settings(deadline=None)
@given(mine=networks(), others=st.lists(networks(), max_size=5))
def test_ranges_overlap_when_one_of_them_holds_the_first_address_of_the_other(mine: IPv4Network, others: list[IPv4Network]) -> None:
    named = {f"s{number}": str(other) for number, other in enumerate(others)}
    first = next((n for n, o in zip(named, others, strict=True) if o.network_address in mine or mine.network_address in o), None)
    assert overlapping(str(mine), named) == first


@pytest.mark.parametrize(
    ("cidr", "gateway", "field"),
    [
        ("10.0.0.1/24", "", "subnet.spec.cidr"),
        ("10.0.0.0/30", "", "subnet.spec.cidr"),
        ("10.0.0.0/7", "", "subnet.spec.cidr"),
        ("224.0.0.0/24", "", "subnet.spec.cidr"),
        ("169.254.0.0/16", "", "subnet.spec.cidr"),
        ("127.0.0.0/8", "", "subnet.spec.cidr"),
        ("10.0.0.0/24", "10.0.1.1", "subnet.spec.gateway"),
        ("10.0.0.0/24", "10.0.0.0", "subnet.spec.gateway"),
        ("10.0.0.0/24", "10.0.0.255", "subnet.spec.gateway"),
    ],
)
def test_a_range_that_cannot_be_a_subnet_is_refused_with_field_and_fix(cidr: str, gateway: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_range(cidr, gateway)
    assert refused.value.field == field
    assert refused.value.fix
