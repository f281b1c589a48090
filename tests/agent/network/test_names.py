"""Properties of names."""

from hypothesis import given
from hypothesis import strategies as st

from agent.network import names
from kumo.ids import new_uid

VNIS = st.integers(1, (1 << 24) - 1)


@given(vni=VNIS)
def test_a_link_of_a_network_tells_its_number_and_fits_the_kernel(vni: int) -> None:
    for name in (names.bridge(vni), names.tunnel(vni), names.metadata_leg(vni)):
        assert names.vni_of(name) == vni
        assert len(name) < 16


@given(text=st.text(max_size=16))
def test_no_other_name_is_taken_for_one_of_a_network(text: str) -> None:
    vni = names.vni_of(text)
    assert vni is None or text in (names.bridge(vni), names.tunnel(vni), names.metadata_leg(vni))


def test_taps_of_ports_made_in_one_moment_differ() -> None:
    uids = [new_uid() for _ in range(2000)]
    assert len({names.tap(uid) for uid in uids}) == len(uids)
    assert all(len(names.tap(uid)) == 13 for uid in uids[:10])


@given(vni=VNIS, other=VNIS)
def test_bridges_are_pinned_to_local_unicast_addresses_of_their_own(vni: int, other: int) -> None:
    first = int(names.bridge_mac(vni)[:2], 16)
    assert first & 2 and not first & 1
    assert (names.bridge_mac(vni) == names.bridge_mac(other)) == (vni == other)
    assert names.bridge_mac(vni) != names.METADATA_MAC
