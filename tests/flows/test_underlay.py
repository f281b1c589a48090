"""Tenants' networks across hosts: over IPv4 and over IPv6, with one plane network and with four, beside a firewall that is not Kumo's."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deploy.hello import IMAGE
from deploy.lab.underlay import FOREIGN_FIREWALL
from tests.flows.cloud import until
from tests.flows.guest import Shell, shell
from tests.flows.hosts import Hosts, running_hosts

FIRST, SECOND = "10.9.0.11", "10.9.0.12"
STRICT = "table bridge strict" + FOREIGN_FIREWALL.split("table bridge strict")[1]


@dataclass(frozen=True)
class Place:
    """Two servers of one network on two hosts, and beside the second one of another network that has the first one's address."""

    hosts: Hosts
    first: Shell
    second: Shell
    other: Shell
    mtu: int


@pytest.fixture(scope="module", params=["ipv4, one network", "ipv6, four networks, foreign firewall"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param.startswith("ipv4"):
        yield from _furnished(request.getfixturevalue("hosts"), 1450)
    else:
        with running_hosts("--hosts", "2", "--underlay", "ipv6", "--networks", "4", "--foreign-firewall") as hosts:
            yield from _furnished(hosts, 1430)


def _furnished(hosts: Hosts, mtu: int) -> Iterator[Place]:
    wanted = {"first": ("sky", FIRST, "h1"), "second": ("sky", SECOND, "h2"), "other": ("leaf", FIRST, "h2")}
    for network in ("sky", "leaf"):
        hosts.kumo("network", "create", network, "--cidr", "10.9.0.0/24", "--wait")
    for name, (network, address, host) in wanted.items():
        hosts.kumo("port", "create", name, "--network", network, "--address", address)
        with hosts.only_on(host):
            hosts.kumo("server", "create", name, "--image", IMAGE, "--flavor", "tiny", "--port", name, "--no-wait")
            hosts.kumo("server", "wait", name, "--for=Placed", "--timeout", "60")
    for name, (_, _, host) in wanted.items():
        hosts.kumo("server", "wait", name, "--for=ready", "--timeout", "120")
        assert hosts.server(name)["status"]["host"] == f"hosts/{host}"
    with shell(hosts, "first") as first, shell(hosts, "second") as second, shell(hosts, "other") as other:
        yield Place(hosts, first, second, other, mtu)
    hosts.kumo("server", "delete", *wanted, "--wait", "--timeout", "60")
    for host in ("h1", "h2"):
        until(lambda host=host: not re.search("k[btv]", hosts.plane(host, "ip", "-br", "link")), f"{host} carries nothing")  # type: ignore[misc]
    hosts.kumo("port", "delete", *wanted, "--wait")
    hosts.kumo("subnet", "delete", "sky", "leaf", "--wait")
    hosts.kumo("network", "delete", "sky", "leaf", "--wait")


def test_two_servers_on_two_hosts_reach_each_other(place: Place) -> None:
    assert place.first.succeeds(f"ping -c 3 -W 2 {SECOND}")
    assert place.second.succeeds(f"ping -c 3 -W 2 {FIRST}")


def test_the_largest_packet_of_the_network_passes_whole(place: Place) -> None:
    assert f"mtu {place.mtu}" in place.first.run("ip link show dev eth0")
    assert place.first.succeeds(f"ping -c 2 -W 2 -s {place.mtu - 28} {SECOND}")


def test_a_server_of_another_network_with_the_same_addresses_reaches_nobody(place: Place) -> None:
    assert not place.other.succeeds(f"ping -c 2 -W 1 {SECOND}")
    assert place.first.succeeds(f"ping -c 2 -W 1 {SECOND}"), "the same does pass on the network"


def test_a_false_address_is_not_let_through_to_the_other_host_and_the_true_one_is(place: Place) -> None:
    place.first.run("ip addr add 10.9.0.77/24 dev eth0")
    try:
        assert not place.first.succeeds(f"ping -c 2 -W 1 -I 10.9.0.77 {SECOND}")
        assert place.first.succeeds(f"ping -c 2 -W 1 -I {FIRST} {SECOND}")
    finally:
        place.first.run("ip addr del 10.9.0.77/24 dev eth0")


def test_each_host_knows_where_the_ports_of_others_are_and_floods_nothing(place: Place) -> None:
    """`leaf` has a server on one host alone: nobody else carries it, and its tunnel leads nowhere."""
    entries = {host: place.hosts.plane(host, "bridge", "fdb") for host in ("h1", "h2")}
    far = {host: set(re.findall(r"^(\S+) dev \S+ dst (\S+)", listed, re.MULTILINE)) for host, listed in entries.items()}
    mac = {name: place.hosts.json("port", "show", name)["spec"]["mac"] for name in ("first", "second")}
    tunnel = {host: place.hosts.node(host).addresses.tunnel for host in ("h1", "h2")}
    assert far == {"h1": {(mac["second"], tunnel["h2"])}, "h2": {(mac["first"], tunnel["h1"])}}


def test_the_doctor_says_which_link_carries_too_little_and_is_content_again(place: Place) -> None:
    hosts, link = place.hosts, tunnel_link(place)

    def doctor() -> str:
        return hosts.kumo("doctor", check=False).stdout

    assert "PlanesFit" not in doctor() and "tunnels of this cell need" not in doctor()
    hosts.exec("h1", "ip", "link", "set", link, "mtu", "1400")
    try:
        until(lambda: f"{link} with {hosts.node('h1').addresses.tunnel} carries 1400" in doctor(), "the doctor says so")
        assert f"fix: ip link set {link} mtu 1500" in doctor()
    finally:
        hosts.exec("h1", "ip", "link", "set", link, "mtu", "1500")
    until(lambda: "carries 1400" not in doctor(), "the doctor is content")


def tunnel_link(place: Place) -> str:
    node = place.hosts.node("h1")
    return next(plane for plane in place.hosts.shape.links if getattr(node.addresses, plane) == node.addresses.tunnel)


def test_tunnels_run_on_the_tunnel_plane_alone(place: Place) -> None:
    """Each frame between the hosts leaves by the device that has the tunnel address."""
    devices = {plane: place.hosts.exec("h1", "cat", f"/sys/class/net/{plane}/statistics/tx_packets") for plane in place.hosts.shape.links}
    assert place.first.succeeds(f"ping -c 20 -i 0.05 {SECOND}")
    carried = {
        plane: int(place.hosts.exec("h1", "cat", f"/sys/class/net/{plane}/statistics/tx_packets")) - int(before)
        for plane, before in devices.items()
    }
    assert carried[tunnel_link(place)] >= 20
    assert carried.get("migration", 0) < 20


def test_the_firewall_that_hosts_have_would_cut_them_off_where_the_tenants_links_are(place: Place) -> None:
    """What makes a foreign firewall harmless is the namespace: the same rules in there do harm, until they are gone."""
    if place.hosts.shape.foreign_firewall:
        rules = place.hosts.exec("h1", "nft", "list", "ruleset")
        assert len(re.findall(r"hook forward .*policy drop", rules)) == 3
    place.hosts.plane("h1", "nft", STRICT)
    try:
        assert not place.first.succeeds(f"ping -c 2 -W 1 {SECOND}")
    finally:
        place.hosts.plane("h1", "nft", "delete", "table", "bridge", "strict")
    assert place.first.succeeds(f"ping -c 2 -W 2 {SECOND}")
