"""Packet rules: deltas, refills in place, and what the next agent knows about them."""

from collections.abc import Iterator

import pytest

from agent.network import netns, nft, rules
from agent.network.nft import Ruleset
from agent.network.rules import Element
from tests.agent.network.lab import Lab, shell

MANY = frozenset[Element]().union(*(rules.port_elements(f"kt{n:011x}", f"02:aa:00:00:00:{n:02x}", f"10.0.0.{n}") for n in range(1, 40)))
ONE = rules.port_elements("ktabc", "02:aa:00:00:01:01", "10.0.1.1")


@pytest.fixture
def plane(lab: Lab) -> Iterator[str]:
    lab.namespaces.mkdir()
    netns.create(lab.plane)
    yield lab.plane


def opened(lab: Lab, table: rules.Table | None = None) -> Ruleset:
    with netns.visit(lab.plane):
        return Ruleset(table or rules.data_plane(), lab.directory / "rules.json")


def counts() -> dict[str, float]:
    return {kind: nft.COMMITS.labels(kind)._value.get() for kind in ("delta", "refill")}


def test_a_change_is_a_delta_and_nothing_is_no_change(lab: Lab, plane: str) -> None:
    ruleset = opened(lab)
    ruleset.begin(MANY, keep=False)
    before = counts()
    ruleset.change(ONE, ())
    ruleset.change(ONE, rules.port_elements("ktnone", "02:aa:00:00:01:02", "10.0.1.2"))
    after = counts()
    assert (after["delta"] - before["delta"], after["refill"] - before["refill"]) == (1, 0)
    assert ruleset.holds(ONE) and '"ktabc" . 02:aa:00:00:01:01 . 10.0.1.1' in shell(plane, "nft", "list", "set", "bridge", "kumo", "src4")
    ruleset.change((), ONE)
    assert "ktabc" not in shell(plane, "nft", "list", "ruleset")
    ruleset.close()


def test_the_next_agent_finds_all_as_it_was(lab: Lab, plane: str) -> None:
    first = opened(lab)
    first.begin(MANY, keep=False)
    first.close()
    before = counts()
    second = opened(lab)
    second.begin(MANY, keep=False)
    assert counts() == before and second.in_force == MANY
    second.change((), MANY)
    second.close()
    third = opened(lab)
    third.begin(ONE, keep=False)
    assert third.in_force == ONE and counts()["refill"] == before["refill"]
    third.close()


def test_what_is_beside_can_be_kept(lab: Lab, plane: str) -> None:
    first = opened(lab)
    first.begin(MANY, keep=False)
    first.close()
    second = opened(lab)
    second.begin(ONE, keep=True)
    assert second.in_force == MANY | ONE
    second.close()


@pytest.mark.parametrize("foreign", ["flush ruleset", "add table inet other", "flush chain bridge kumo pre", "delete table inet kumo"])
def test_after_anybody_elses_change_all_is_refilled(lab: Lab, plane: str, foreign: str) -> None:
    ruleset = opened(lab)
    ruleset.begin(MANY, keep=False)
    wanted = without_other(shell(plane, "nft", "-s", "list", "ruleset"))
    shell(plane, "nft", foreign)
    assert not ruleset.is_intact() and not ruleset.holds(MANY)
    ruleset.change((), ())
    assert ruleset.holds(MANY)
    assert without_other(shell(plane, "nft", "-s", "list", "ruleset")) == wanted
    ruleset.close()


def without_other(listed: str) -> list[str]:
    """Return the lines in order, without a foreign table, and without the nonce, which is new each time."""
    elements = listed.replace("table inet other {\n}\n", "").replace(",", " ").split()
    return sorted(word for word in elements if not (word.startswith("0x") and int(word, 16) > 0xFF))


def test_rules_of_another_version_are_replaced(lab: Lab, plane: str) -> None:
    first = opened(lab)
    first.begin(MANY, keep=False)
    first.close()
    table = rules.data_plane()
    newer = rules.Table(table.tables, table.home, table.sets, table.skeleton, table.rules.replace("udp dport { 67, 547 } drop", ""))
    before = counts()
    second = opened(lab, newer)
    second.begin(MANY, keep=False)
    assert counts()["refill"] == before["refill"] + 1
    assert "udp dport { 67, 547 } drop" not in shell(plane, "nft", "list", "table", "bridge", "kumo")
    second.close()


def test_a_foreign_table_is_left_alone(lab: Lab, plane: str) -> None:
    shell(plane, "nft", "add table inet foreign; add chain inet foreign c; add rule inet foreign c counter")
    before = shell(plane, "nft", "list", "table", "inet", "foreign")
    ruleset = opened(lab)
    ruleset.begin(MANY, keep=False)
    ruleset.change(ONE, MANY)
    assert shell(plane, "nft", "list", "table", "inet", "foreign") == before
    ruleset.close()


def test_two_labs_that_share_a_namespace_come_to_rest(lab: Lab, plane: str) -> None:
    def made(port: int) -> Ruleset:
        with netns.visit(lab.plane):
            return Ruleset(rules.host(port, "192.0.2.1"), lab.directory / f"rules-{port}.json")

    one, two = made(4789), made(4790)
    far = rules.tunnel_elements(["192.0.2.9"])
    one.begin(far, keep=False)
    two.begin(far, keep=False)
    before = counts()
    for _ in range(3):
        one.change((), ())
        two.change((), ())
    assert counts() == before and one.holds(far) and two.holds(far)
    one.close()
    again = made(4789)
    again.begin(far, keep=False)
    assert counts() == before
    again.close()
    two.close()


@pytest.mark.parametrize(
    "foreign", ["flush ruleset", "flush chain inet kumo_4789 tunnels", "delete element inet kumo_4789 far4 { 192.0.2.9 }"]
)
def test_where_others_share_the_namespace_a_change_of_our_own_table_is_still_mended(lab: Lab, plane: str, foreign: str) -> None:
    ruleset = opened(lab, rules.host(4789, "192.0.2.1"))
    far = rules.tunnel_elements(["192.0.2.9"])
    ruleset.begin(far, keep=False)
    shell(plane, "nft", "add table inet other")
    assert ruleset.holds(far)
    shell(plane, "nft", foreign)
    assert not ruleset.holds(far)
    ruleset.change((), ())
    listed = shell(plane, "nft", "list", "table", "inet", "kumo_4789")
    assert ruleset.holds(far) and "192.0.2.9" in listed and "drop" in listed
    ruleset.close()


def test_hosts_of_both_families_are_let_in(lab: Lab, plane: str) -> None:
    ruleset = opened(lab, rules.host(4789, "192.0.2.1"))
    ruleset.begin(rules.tunnel_elements(["192.0.2.9", "2001:db8::9", "2001:0db8:0::9"]), keep=False)
    listed = shell(plane, "nft", "list", "table", "inet", "kumo_4789")
    assert "192.0.2.9" in listed and listed.count("2001:db8::9") == 1
    ruleset.close()
    again = opened(lab, rules.host(4789, "192.0.2.1"))
    before = counts()
    again.begin(rules.tunnel_elements(["192.0.2.9", "2001:db8::9"]), keep=False)
    assert counts() == before
    again.close()
