"""Servers on one network reach each other; one with the same address on another network reaches and is reached by nobody."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deploy.hello import IMAGE
from tests.flows.cloud import Cloud, assert_nothing_left
from tests.flows.guest import Shell, shell

FIRST, SECOND = "10.9.0.11", "10.9.0.12"


@dataclass(frozen=True)
class Guests:
    """Two servers on sky, and one on leaf that has the address of the first."""

    first: Shell
    second: Shell
    other: Shell


def create(cloud: Cloud, name: str, network: str, address: str, *options: str) -> None:
    """Create a server with a port of that address; return at once."""
    cloud.kumo("port", "create", name, "--network", network, "--address", address)
    cloud.kumo("server", "create", name, "--image", IMAGE, "--flavor", "flow", "--port", name, "--no-wait", *options)


@pytest.fixture(scope="module")
def guests(cloud: Cloud, small: str, sky: str, leaf: str) -> Iterator[Guests]:
    del small
    before = cloud.world()
    names = {"iso-first": (sky, FIRST), "iso-second": (sky, SECOND), "iso-other": (leaf, FIRST)}
    for name, (network, address) in names.items():
        create(cloud, name, network, address)
    for name in names:
        cloud.kumo("server", "wait", name, "--for=ready", "--timeout", "120")
    with shell(cloud, "iso-first") as first, shell(cloud, "iso-second") as second, shell(cloud, "iso-other") as other:
        yield Guests(first, second, other)
    cloud.kumo("server", "delete", *names, "--wait", "--timeout", "60")
    cloud.kumo("port", "delete", *names, "--wait", "--timeout", "60")
    assert_nothing_left(cloud, before)


def test_two_servers_on_one_network_ping_each_other(guests: Guests) -> None:
    assert guests.first.succeeds(f"ping -c 3 -W 2 {SECOND}")
    assert guests.second.succeeds(f"ping -c 3 -W 2 {FIRST}")


def test_a_server_on_another_network_with_the_same_range_reaches_nobody_there(guests: Guests) -> None:
    assert not guests.other.succeeds(f"ping -c 2 -W 1 {SECOND}")
    assert guests.first.succeeds(f"ping -c 2 -W 1 {SECOND}")


def test_equal_addresses_on_two_networks_are_two_servers(guests: Guests) -> None:
    assert "10.9.0.11" in guests.other.run("ip -4 addr show dev eth0")
    page = guests.second.run(f"wget -q -O - http://{FIRST}/")
    assert page.strip() == "iso-first"


def test_each_reads_its_own_metadata_though_two_have_one_address(guests: Guests) -> None:
    for guest, name in ((guests.first, "iso-first"), (guests.second, "iso-second"), (guests.other, "iso-other")):
        assert guest.run("wget -q -O - http://169.254.169.254/latest/meta-data/local-hostname").strip().split(".")[0] == name


def test_a_false_ip_address_is_not_let_through_and_the_true_one_is(guests: Guests) -> None:
    guests.first.run("ip addr add 10.9.0.77/24 dev eth0")
    try:
        assert not guests.first.succeeds(f"ping -c 2 -W 1 -I 10.9.0.77 {SECOND}")
        assert guests.first.succeeds(f"ping -c 2 -W 1 -I {FIRST} {SECOND}")
    finally:
        guests.first.run("ip addr del 10.9.0.77/24 dev eth0")


def test_a_false_mac_address_is_not_let_through_and_the_true_one_is(guests: Guests) -> None:
    true = guests.second.run("cat /sys/class/net/eth0/address").strip()
    guests.second.run("ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:99; ip link set eth0 up")
    try:
        assert not guests.second.succeeds(f"ping -c 2 -W 1 {FIRST}")
    finally:
        guests.second.run(f"ip link set eth0 down; ip link set eth0 address {true}; ip link set eth0 up")
    assert guests.second.succeeds(f"ping -c 3 -W 2 {FIRST}")


def test_a_guest_reaches_nothing_of_its_host(cloud: Cloud, guests: Guests) -> None:
    """The host is given an address beside the loopback one, as a real host has, so that there is something to reach."""
    cloud.inside("ip", "link", "add", "under0", "type", "veth", "peer", "name", "under1")
    try:
        cloud.inside("ip", "addr", "add", "172.31.255.1/24", "dev", "under0")
        cloud.inside("ip", "link", "set", "under0", "up")
        cloud.inside("ip", "link", "set", "under1", "up")
        guests.first.run("ip route add 172.31.255.0/24 dev eth0; ip route add 10.0.0.0/30 dev eth0")
        assert not guests.first.succeeds("arping -c 2 -w 3 -I eth0 172.31.255.1")
        assert not guests.first.succeeds("ping -c 2 -W 1 172.31.255.1")
        assert not guests.first.succeeds(f"echo | nc -w 2 172.31.255.1 {cloud.lab.port_base}")
        assert guests.first.succeeds(f"arping -c 2 -w 5 -I eth0 {SECOND}")
        assert guests.first.succeeds("wget -q -O /dev/null http://169.254.169.254/latest/meta-data/instance-id")
    finally:
        guests.first.attempt("ip route del 172.31.255.0/24 dev eth0; ip route del 10.0.0.0/30 dev eth0")
        cloud.inside("ip", "link", "del", "under0")


def test_the_metadata_address_answers_nothing_but_metadata(guests: Guests) -> None:
    assert not guests.first.succeeds("echo | nc -w 2 169.254.169.254 22")
    assert guests.first.succeeds("wget -q -O /dev/null http://169.254.169.254/latest/meta-data/mac")
