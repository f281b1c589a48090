"""What guests can send, receive and reach, as frames on real links. Each "cannot" has a control beside it that can."""

import select
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from agent.network import links, names, netns
from agent.network import rtnetlink as nl
from kumo.api.agent.v1.network_pb2 import PortFacts, RemotePort
from kumo.ids import new_uid
from tests.agent.network.lab import (
    BROADCAST,
    ETH_ARP,
    ETH_IP,
    ETH_IP6,
    HERE,
    MARK,
    EchoStream,
    Guest,
    Lab,
    Sniffer,
    arp,
    ethernet,
    ip4,
    ip6,
    make_pair,
    move_link,
    shell,
    udp,
    wait_for,
)
from tests.agent.network.rig import FAR_ADDRESS, TUNNEL_ADDRESS, TUNNEL_PORT, Rig, kernel_driver, running

ALICE, BOB, CAROL = "02:aa:00:00:00:11", "02:aa:00:00:00:12", "02:aa:00:00:00:13"
A, B, C = "10.0.0.11", "10.0.0.12", "10.0.0.13"
VNI, OTHER_VNI = 0x65, 0x66


@dataclass
class Place:
    """Alice and Bob on one network; Dan and Carol on another with the same addresses, Dan with Alice's MAC too."""

    lab: Lab
    rig: Rig
    alice: Guest
    bob: Guest
    dan: Guest
    carol: Guest
    network: str
    other: str


async def plugged_guest(lab: Lab, rig: Rig, network: str, mac: str, address: str) -> Guest:
    port = new_uid()
    await rig.put_port(port, network, mac, address)
    await rig.until(port, PortFacts.BOUND)
    guest = lab.guest(port, mac, address)
    done = lab.hook(guest.tap)
    assert done.returncode == 0, done.stderr
    guest.configure()
    await rig.until(port, PortFacts.BOUND, plugged=True)
    return guest


def make_rig(lab: Lab) -> Rig:
    return Rig(lab.directory, kernel_driver(lab.directory, lab.namespaces), responder=lab.directory / "nobody.sock")


@pytest.fixture
async def place(lab: Lab) -> AsyncIterator[Place]:
    async with running(make_rig(lab)) as rig:
        network, other = new_uid(), new_uid()
        await rig.put_network(network, VNI)
        await rig.put_network(other, OTHER_VNI)
        alice = await plugged_guest(lab, rig, network, ALICE, A)
        bob = await plugged_guest(lab, rig, network, BOB, B)
        dan = await plugged_guest(lab, rig, other, ALICE, A)
        carol = await plugged_guest(lab, rig, other, CAROL, C)
        yield Place(lab, rig, alice, bob, dan, carol, network, other)


def arrives(frame: bytes, sender: Guest, receiver: Guest) -> bool:
    sniffer = Sniffer(receiver)
    sender.send(frame)
    return sniffer.count() > 0


async def test_servers_of_one_network_reach_each_other_and_no_others(place: Place) -> None:
    assert place.alice.ping(B) == 3 and place.bob.ping(A) == 3
    assert place.dan.ping(C) == 3 and place.carol.ping(A) == 3
    assert place.alice.ping(C) == 0  # Carol's address is on the other network only
    assert place.dan.ping(B) == 0
    sniffer = Sniffer(place.dan)
    place.bob.ping(A)  # Dan has Alice's MAC and address
    assert sniffer.count(lambda frame: frame[12:14] == b"\x08\x00") == 0


async def test_what_a_guest_sends_is_counted_as_sent_and_what_it_gets_as_received(place: Place) -> None:
    sniffer = Sniffer(place.bob)
    before = await place.rig.driver.traffic()
    for _ in range(50):
        place.alice.send(ethernet(BOB, ALICE, ETH_IP, ip4(A, B, udp(1, 80, MARK + bytes(900)))))
    assert sniffer.count(wait_s=2.0, enough=50) == 50
    after = await place.rig.driver.traffic()
    (alice, bob) = (place.alice.tap, place.bob.tap)
    assert after[alice].sent_packets - before[alice].sent_packets >= 50 > after[alice].received_packets - before[alice].received_packets
    assert after[bob].received_bytes - before[bob].received_bytes >= 50 * 900 > after[bob].sent_bytes - before[bob].sent_bytes


async def test_no_false_frame_arrives(place: Place) -> None:
    """Bob has raw sockets and tries what a hostile guest tries."""
    alice, bob = place.alice, place.bob
    good = ip4(B, A, udp(1, 80, MARK))
    advert = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + MARK
    hidden = struct.pack(">BBHI", 58, 0, 0x0104, 0) + advert
    neighbour = struct.pack(">BBHI", 136, 0, 0, 0x20000000) + links.pack_address("fd00::99") + b"\2\1" + links.pack_mac(BOB) + MARK
    link_local = "fe80::aa:ff:fe00:12"
    assert arrives(ethernet(ALICE, BOB, ETH_IP, good), bob, alice)
    assert arrives(ethernet(ALICE, BOB, ETH_ARP, arp(2, BOB, B, ALICE, A) + MARK), bob, alice)
    false_frames = {
        "a foreign source address": ethernet(ALICE, BOB, ETH_IP, ip4("10.0.0.77", A, udp(1, 80, MARK))),
        "another guest's source address": ethernet(ALICE, BOB, ETH_IP, ip4(A, A, udp(1, 80, MARK))),
        "the metadata service's source address": ethernet(ALICE, BOB, ETH_IP, ip4(names.METADATA_ADDRESS, A, udp(1, 80, MARK))),
        "a foreign source MAC": ethernet(ALICE, "02:aa:00:00:00:77", ETH_IP, good),
        "the metadata service's MAC": ethernet(ALICE, names.METADATA_MAC, ETH_IP, good),
        "the bridge's MAC": ethernet(ALICE, names.bridge_mac(VNI), ETH_IP, good),
        "ARP that claims another's address": ethernet(ALICE, BOB, ETH_ARP, arp(2, BOB, "10.0.0.1", ALICE, A) + MARK),
        "ARP that claims the metadata service": ethernet(BROADCAST, BOB, ETH_ARP, arp(1, BOB, "169.254.169.254", ALICE, A) + MARK),
        "ARP with another MAC inside": ethernet(ALICE, BOB, ETH_ARP, arp(2, ALICE, B, ALICE, A) + MARK),
        "ARP from another MAC": ethernet(ALICE, "02:aa:00:00:00:77", ETH_ARP, arp(2, BOB, B, ALICE, A) + MARK),
        "a DHCP server's answer": ethernet(ALICE, BOB, ETH_IP, ip4(B, A, udp(67, 68, MARK))),
        "a DHCP request": ethernet(BROADCAST, BOB, ETH_IP, ip4("0.0.0.0", "255.255.255.255", udp(68, 67, MARK))),
        "a DHCPv6 server's answer": ethernet(ALICE, BOB, ETH_IP6, ip6("fd00::12", "fd00::11", udp(547, 546, MARK), 17)),
        "a VLAN tag": ethernet(ALICE, BOB, 0x8100, struct.pack(">HH", 5, ETH_IP) + good),
        "two VLAN tags": ethernet(ALICE, BOB, 0x88A8, struct.pack(">HHHH", 5, 0x8100, 6, ETH_IP) + good),
        "an unknown ether type": ethernet(ALICE, BOB, 0x88CC, MARK),
        "a router advertisement": ethernet("33:33:00:00:00:01", BOB, ETH_IP6, ip6(link_local, "ff02::1", advert, 58)),
        "a hidden router advertisement": ethernet("33:33:00:00:00:01", BOB, ETH_IP6, ip6(link_local, "ff02::1", hidden, 0)),
        "a neighbour advertisement": ethernet(ALICE, BOB, ETH_IP6, ip6("fd00::12", "fd00::11", neighbour, 58)),
        "IPv6 in an IPv4 frame": ethernet(ALICE, BOB, ETH_IP, ip6("fd00::12", "fd00::11", udp(1, 80, MARK), 17)),
        "a frame to the bridge's group address": ethernet("01:80:c2:00:00:00", BOB, 0x0027, MARK),
    }
    for number, (name, frame) in enumerate(false_frames.items()):
        sniffer = Sniffer(alice)
        bob.send(frame, 1)
        # One long wait for what all of them are late with; what comes at once comes within a short one.
        assert sniffer.count(wait_s=0.3 if number == len(false_frames) - 1 else 0.02) == 0, name
    assert arrives(ethernet(ALICE, BOB, ETH_IP, good), bob, alice)


async def test_a_guest_reaches_nothing_of_its_host(place: Place) -> None:
    """The host has an address, an open port and a link of its own in the data plane's neighbourhood; none answers."""
    bob = place.bob
    bridge = names.bridge_mac(VNI)
    shell(HERE, "ip", "addr", "add", "172.31.255.1/32", "dev", "lo")
    shell(bob.namespace, "ip", "route", "add", "172.31.255.1/32", "dev", "eth0")
    # The same address in the data plane too, where nobody should ever put one.
    shell(place.lab.plane, "ip", "link", "set", "lo", "up")
    shell(place.lab.plane, "ip", "addr", "add", "172.31.255.2/32", "dev", "lo")
    with netns.visit(place.lab.plane):
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listener:
        listener.bind(("0.0.0.0", 5555))
        listener.settimeout(0.2)
        for address in ("172.31.255.1", "172.31.255.2"):
            sniffer = Sniffer(bob)
            bob.send(ethernet(BROADCAST, BOB, ETH_ARP, arp(1, BOB, B, "00:00:00:00:00:00", address)))
            assert sniffer.count(lambda frame: frame[12:14] == b"\x08\x06") == 0
            assert bob.ping(address) == 0
        bob.send(ethernet(bridge, BOB, ETH_IP, ip4(B, "172.31.255.2", udp(1, 5555, MARK))))
        bob.send(ethernet(BROADCAST, BOB, ETH_IP, ip4(B, "255.255.255.255", udp(1, 5555, MARK))))
        with pytest.raises(TimeoutError):
            listener.recv(100)
    for target in ("ff02::1", "fe80::4bff:fe00:65"):
        sniffer = Sniffer(bob)
        bob.send(ethernet("33:33:00:00:00:01", BOB, ETH_IP6, ip6("fe80::aa:ff:fe00:12", target, struct.pack(">BBHI", 128, 0, 0, 1), 58)))
        assert sniffer.count(lambda frame: frame[12:14] == b"\x86\xdd") == 0
    assert bob.ping(A) == 3
    sniffer = Sniffer(bob)  # the same question for an address that may be asked for
    bob.send(ethernet(BROADCAST, BOB, ETH_ARP, arp(1, BOB, B, "00:00:00:00:00:00", A)))
    assert sniffer.count(lambda frame: frame[12:14] == b"\x08\x06") == 1


async def test_the_host_sends_nothing_into_a_guest(place: Place) -> None:
    sniffer = Sniffer(place.alice)
    assert sniffer.count(lambda _: True, wait_s=1.0) == 0
    assert place.bob.ping(A) == 3


async def test_without_br_netfilter_nothing_passes(place: Place) -> None:
    shell(place.lab.plane, "ip", "link", "set", names.bridge(VNI), "type", "bridge", "nf_call_iptables", "0")
    assert place.bob.ping(A) == 0
    await place.rig.put_network(place.network, VNI)
    wait_target = names.bridge(VNI)
    await place.rig.wait(lambda: "nf_call_iptables 1" in shell(place.lab.plane, "ip", "-d", "link", "show", wait_target))
    assert place.bob.ping(A) == 3


@pytest.mark.parametrize("table", ["inet", "bridge"])
async def test_with_one_table_flushed_nothing_passes_until_it_is_mended(lab: Lab, table: str) -> None:
    async with running(make_rig(lab)) as rig:
        network = new_uid()
        await rig.put_network(network, VNI)
        await plugged_guest(lab, rig, network, ALICE, A)
        bob = await plugged_guest(lab, rig, network, BOB, B)
        assert bob.ping(A) == 3
    # No agent runs now.
    shell(lab.plane, "nft", "flush", "table", table, "kumo")
    assert bob.ping(A) == 0
    async with running(make_rig(lab)) as rig:
        await rig.wait(lambda: bob.ping(A, count=1) == 1)


async def test_an_unknown_tap_on_a_bridge_is_cut_off(place: Place) -> None:
    """Somebody plugs in a tap that no port stands behind."""
    stranger = place.lab.guest(new_uid(), CAROL, C)
    stranger.configure()
    with netns.visit(place.lab.plane):
        route = nl.Netlink()
    move_link(stranger.tap, place.lab.plane)
    links.plug(route, links.need(route, stranger.tap), links.need(route, names.bridge(VNI)), CAROL, 1450)
    route.close()
    assert stranger.ping(A) == 0
    assert not arrives(ethernet(BROADCAST, BOB, ETH_ARP, arp(1, BOB, B, "00:00:00:00:00:00", C) + MARK), place.bob, stranger)
    assert place.bob.ping(A) == 3


async def test_fragments_pass_and_those_of_another_network_do_not_mix_in(place: Place) -> None:
    """Two networks with equal addresses, protocols and identities: each datagram is put together of its own parts only."""
    payload = udp(1, 7777, b"A" * 1000 + MARK)
    first = ethernet(ALICE, BOB, ETH_IP, ip4(B, A, payload[:504], fragment=0x2000, identity=77))
    rest = ethernet(ALICE, BOB, ETH_IP, ip4(B, A, payload[504:], fragment=63, identity=77))
    with place.alice.open(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((A, 7777))
        receiver.settimeout(0.5)
        place.bob.send(first, 1)
        place.bob.send(rest, 1)
        assert receiver.recv(4000).endswith(MARK)
        place.bob.send(first, 1)
        foreign = ethernet(ALICE, CAROL, ETH_IP, ip4(C, A, payload[504:], fragment=63, identity=77))
        place.carol.send(foreign, 1)
        with pytest.raises(TimeoutError):
            receiver.recv(4000)


async def test_a_restart_of_the_agent_loses_no_packet_and_changes_nothing(lab: Lab) -> None:
    async with running(make_rig(lab)) as rig:
        network = new_uid()
        await rig.put_network(network, VNI)
        alice = await plugged_guest(lab, rig, network, ALICE, A)
        bob = await plugged_guest(lab, rig, network, BOB, B)
    with netns.visit(lab.plane):
        monitor = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        rules = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 12)
    monitor.bind((0, 1 | 4 | 0x10 | 0x40))
    rules.bind((0, 1 << 6))
    with monitor, rules, EchoStream(bob, A) as stream:
        for _ in range(3):
            async with running(make_rig(lab)) as rig:
                await rig.wait(lambda rig=rig: rig.is_known and len(rig.facts) == 2)  # type: ignore[misc]  # bound at once
        for heard in (monitor, rules):
            with pytest.raises(BlockingIOError):
                heard.recv(65536)
        # A foreign change of rules makes the next one refill everything in place.
        for number in range(12):
            shell(lab.plane, "nft", "add", "table", "inet", f"foreign{number}")
            async with running(make_rig(lab)) as rig:
                await rig.wait(lambda rig=rig: rig.is_known)  # type: ignore[misc]
        assert select.select([rules], [], [], 5)[0]
    assert stream.sent > 100
    assert stream.lost == 0
    assert "foreign0" in shell(lab.plane, "nft", "list", "tables")
    assert alice.ping(B) == 3


async def test_a_tap_with_a_lower_address_takes_nothing_from_the_bridge(place: Place) -> None:
    """An unpinned bridge takes its ports' lowest MAC, and the kernel then flushes permanent neighbours."""
    remote = RemotePort(mac="02:bb:00:00:00:01", addresses=["10.0.0.201"], tunnel_address="192.0.2.9")
    await place.rig.put_network(place.network, VNI, remotes=(remote,))

    def shown() -> str:
        return shell(place.lab.plane, "ip", "neigh", "show", "nud", "permanent")

    await place.rig.wait(lambda: "10.0.0.201" in shown())
    shell(place.lab.plane, "ip", "link", "add", "kmlow", "address", "00:00:00:00:00:01", "type", "bridge")
    shell(place.lab.plane, "ip", "link", "add", "low0", "address", "00:00:00:00:00:02", "type", "veth", "peer", "name", "low1")
    shell(place.lab.plane, "ip", "link", "set", "low0", "master", names.bridge(VNI), "up")
    assert "10.0.0.201" in shown()
    # The control: the same without the pin.
    shell(place.lab.plane, "ip", "link", "add", "loose", "type", "bridge")
    shell(place.lab.plane, "ip", "link", "set", "loose", "up")
    shell(place.lab.plane, "ip", "neigh", "add", "10.9.9.9", "lladdr", "02:bb:00:00:00:02", "dev", "loose", "nud", "permanent")
    shell(place.lab.plane, "ip", "link", "add", "low2", "address", "00:00:00:00:00:03", "type", "veth", "peer", "name", "low3")
    shell(place.lab.plane, "ip", "link", "set", "low2", "master", "loose", "up")
    assert "10.9.9.9" not in shown()


REMOTE = RemotePort(mac="02:bb:00:00:00:01", addresses=["10.0.0.201"], tunnel_address=FAR_ADDRESS)


@pytest.fixture
def far_host(lab: Lab) -> Guest:
    """Another host on the underlay of this one."""
    make_pair("under0", "eth0", "02:cc:00:00:00:09", lab.namespace("far"), 1500)
    shell(HERE, "ip", "addr", "add", f"{TUNNEL_ADDRESS}/24", "dev", "under0")
    shell(HERE, "ip", "link", "set", "under0", "up")
    far = Guest(str(lab.directory / "far"), "", "02:cc:00:00:00:09", FAR_ADDRESS, 24)
    shell(far.namespace, "ip", "addr", "add", f"{FAR_ADDRESS}/24", "dev", "eth0")
    shell(far.namespace, "ip", "link", "set", "eth0", "up")
    return far


async def test_arp_for_remote_ports_is_answered_here_and_none_enters_the_tunnel(far_host: Guest, place: Place) -> None:
    await place.rig.put_network(place.network, VNI, remotes=(REMOTE,))
    await place.rig.wait(lambda: "10.0.0.201" in shell(place.lab.plane, "ip", "neigh", "show", "nud", "permanent"))
    answers, underlay = Sniffer(place.bob), Sniffer(far_host)
    for address in ("10.0.0.201", "10.0.0.202", B):
        place.bob.send(ethernet(BROADCAST, BOB, ETH_ARP, arp(1, BOB, B, "00:00:00:00:00:00", address)), 1)
    assert answers.count(lambda frame: frame[12:14] == b"\x08\x06" and frame[6:12] == links.pack_mac(REMOTE.mac)) == 1
    assert underlay.count(is_tunnelled) == 0
    underlay = Sniffer(far_host)
    place.bob.send(ethernet(REMOTE.mac, BOB, ETH_IP, ip4(B, "10.0.0.201", udp(1, 2, MARK))), 1)
    assert underlay.count(lambda frame: is_tunnelled(frame) and MARK in frame, wait_s=2.0) == 1


def is_tunnelled(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP and frame[36:38] == struct.pack(">H", TUNNEL_PORT)


async def test_a_tunnelled_frame_is_taken_from_other_hosts_only(far_host: Guest, place: Place) -> None:
    inner = ethernet(ALICE, REMOTE.mac, ETH_IP, ip4("10.0.0.201", A, udp(1, 2, MARK)))
    packet = struct.pack(">II", 0x08000000, VNI << 8) + inner

    def comes_in(address: str = TUNNEL_ADDRESS) -> bool:
        sniffer = Sniffer(place.alice)
        with far_host.open(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(packet, (address, TUNNEL_PORT))
        return sniffer.count() > 0

    assert not comes_in()
    await place.rig.put_network(place.network, VNI, remotes=(REMOTE,))
    await place.rig.wait(comes_in)
    # An address of the same host that is another plane's takes none, and the rules see to it whether or not the kernel does.
    shell(HERE, "ip", "addr", "add", "192.0.2.2/24", "dev", "under0")
    assert not comes_in("192.0.2.2") and comes_in()
    assert "ip daddr != 192.0.2.1 counter packets" in shell(HERE, "nft", "list", "table", "inet", f"kumo_{TUNNEL_PORT}")
    await place.rig.put_network(place.network, VNI)
    await place.rig.wait(lambda: not comes_in())


async def test_a_removed_port_is_cut_off_while_its_server_still_runs(place: Place) -> None:
    uid = next(uid for uid in place.rig.ports.held if names.tap(uid) == place.bob.tap)
    assert place.bob.ping(A) == 3
    await place.rig.drop_port(uid)
    await place.rig.until(uid, PortFacts.ABSENT)
    assert place.bob.ping(A) == 0
    assert place.dan.ping(C) == 3
    wait_for("the tap stays", lambda: place.bob.tap in shell(place.lab.plane, "ip", "-br", "link"))
