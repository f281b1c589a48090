"""The packing of netlink, and what it says when the kernel refuses."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.network import links
from agent.network import rtnetlink as nl
from tests.agent.network.lab import Lab


@given(parts=st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_come_back_as_they_were_packed(parts: dict[int, bytes]) -> None:
    packed = b"".join(nl.attribute(kind, payload) for kind, payload in parts.items())
    assert nl.attributes(packed) == parts
    assert nl.attributes(nl.nest(7, packed))[7] == packed


@given(data=st.binary(max_size=200))
def test_no_bytes_make_reading_fail(data: bytes) -> None:
    nl.attributes(data)
    list(nl.messages(data))


def test_a_refusal_is_told_in_the_kernels_words(lab: Lab) -> None:
    route = nl.Netlink()
    assert links.get(route, "nothing") is None
    assert not links.delete(route, "nothing")
    with pytest.raises(OSError) as refused:
        route.call(nl.RTM_NEWLINK, nl.NLM_F_CREATE, links.ifinfo() + nl.nest(links.IFLA_LINKINFO, nl.text(links.INFO_KIND, "nonsense")))
    assert refused.value.errno == errno.EOPNOTSUPP and "Unknown device type" in str(refused.value)
    with pytest.raises(FileNotFoundError):
        links.need(route, "nothing")
    assert [link.name for link in links.dump(route) if not link.name.startswith("ifb")] == ["lo"]
    route.close()


def test_many_requests_go_in_one_call_and_each_has_its_own_answer(lab: Lab) -> None:
    route = nl.Netlink()
    make = [links.ifinfo() + nl.text(links.IFLA_IFNAME, f"b{n}") + kind for n in range(100) for kind in [bridge_kind()]]
    route.call_all([(nl.RTM_NEWLINK, nl.NLM_F_CREATE, body) for body in make])
    first = links.need(route, "b0").index
    entries = [links.put(links.neighbour(first if n % 2 else 9999, f"10.0.{n >> 8}.{n & 255}", "02:00:00:00:00:01")) for n in range(300)]
    failures = [failure is None for failure, _ in route.try_all(entries)]
    assert failures == [bool(n % 2) for n in range(300)]
    assert len(links.neighbours(route, first)) == 150
    links.delete_all(route, [f"b{n}" for n in range(100)] + ["nothing"])
    assert not [link for link in links.dump(route) if link.name.startswith("b")]
    route.close()


def bridge_kind() -> bytes:
    return nl.nest(links.IFLA_LINKINFO, nl.text(links.INFO_KIND, "bridge"))
