"""A path between two servers on two hosts under load, and an ear for every change of the kernel's state beside it.

The frames come in at the first server's tap as if its guest had sent them, and are counted where they leave for the second server's
guest: through the rules of both hosts, and the tunnel between them. The guests themselves would lose some under emulation.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from agent.network import names, netns
from agent.network import rtnetlink as nl
from agent.network.links import Link
from deploy import control
from tests.agent.network.lab import ETH_ALL, ETH_IP, MARK, ethernet, ip4, udp
from tests.flows.hosts import PLANE, Hosts

_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 32 << 20
_NETFILTER = 12
# Links, addresses, routes and rules of both families; entries of neighbours and bridges.
_ROUTE_GROUPS = (1 << 0) | (1 << 4) | (1 << 6) | (1 << 7) | (1 << 8) | (1 << 10)
_ENTRIES = 1 << 2


@dataclass(frozen=True)
class End:
    """A server as its host sees it."""

    host: str
    tap: str
    mac: str
    address: str


def end_of(hosts: Hosts, server: str) -> End:
    shown = hosts.server(server)
    (nic,), (held,) = shown["spec"]["nics"], shown["status"]["addresses"]
    return End(shown["status"]["host"].removeprefix("hosts/"), names.tap(nic["port_uid"]), held["mac"], held["address"])


def host_namespace(hosts: Hosts, host: str) -> str:
    return f"/proc/{control.init_pid(hosts.node(host))}/ns/net"


def plane_namespace(hosts: Hosts, host: str) -> str:
    return f"/proc/{control.init_pid(hosts.node(host))}/root{PLANE}"


class Stream:
    """Sends at a rate until the block ends, and then knows how many frames did not arrive."""

    def __init__(self, hosts: Hosts, source: End, target: End, per_second: int) -> None:
        self._hosts, self._source, self._target, self._interval_s = hosts, source, target, 1 / per_second
        self._stop = threading.Event()
        self._arrived: set[int] = set()
        self.sent = 0

    @property
    def lost(self) -> int:
        return self.sent - len(self._arrived)

    def __enter__(self) -> Self:
        self._lead_in()
        with netns.visit(plane_namespace(self._hosts, self._source.host)):
            self._out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._out.bind(("probe0", 0))
        with netns.visit(plane_namespace(self._hosts, self._target.host)):
            self._heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._heard.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            self._heard.bind((self._target.tap, ETH_ALL))
        self._heard.settimeout(0.5)
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._out.close()
        self._heard.close()
        self._hosts.plane(self._source.host, "ip", "link", "del", "probe0")

    def _lead_in(self) -> None:
        """Have what comes out of one end of a pair come in at the tap."""
        every = ("protocol", "all", "u32", "match", "u32", "0", "0")
        on = ("action", "mirred", "ingress", "redirect", "dev", self._source.tap)
        for command in (
            ("ip", "link", "add", "probe0", "up", "type", "veth", "peer", "name", "probe1"),
            ("ip", "link", "set", "probe1", "up"),
            ("tc", "qdisc", "add", "dev", "probe1", "ingress"),
            ("tc", "filter", "add", "dev", "probe1", "ingress", *every, *on),
        ):
            self._hosts.plane(self._source.host, *command)

    def _send(self) -> None:
        next_at = time.monotonic()
        while not self._stop.is_set():
            payload = udp(9, 9, MARK + struct.pack(">I", self.sent))
            packet = ip4(self._source.address, self._target.address, payload)
            self._out.send(ethernet(self._target.mac, self._source.mac, ETH_IP, packet))
            self.sent += 1
            next_at += self._interval_s
            time.sleep(max(0.0, next_at - time.monotonic()))

    def _count(self) -> None:
        """Count until all came, or nothing came for a while after the last was sent."""
        while not (self._stop.is_set() and len(self._arrived) == self.sent):
            try:
                frame, source = self._heard.recvfrom(2048)
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            at = frame.find(MARK)
            if source[2] == socket.PACKET_OUTGOING and at > 0:
                self._arrived.add(struct.unpack_from(">I", frame, at + len(MARK))[0])


class Ear:
    """Hears every change of links, addresses, routes and packet rules in some namespaces; in data planes, of entries too."""

    def __init__(self, hosts: Hosts, *on: str) -> None:
        self._sockets: dict[str, socket.socket] = {}
        for host in on:
            # A host's own neighbours come and go with what it talks to.
            for what, namespace, groups in (
                (f"host of {host}", host_namespace(hosts, host), _ROUTE_GROUPS),
                (f"data plane of {host}", plane_namespace(hosts, host), _ROUTE_GROUPS | _ENTRIES),
            ):
                with netns.visit(namespace):
                    for kind, protocol, wanted in (("links", socket.NETLINK_ROUTE, groups), ("rules", _NETFILTER, 1 << 6)):
                        heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
                        heard.bind((0, wanted))
                        self._sockets[f"{kind}, {what}"] = heard

    def heard(self) -> set[str]:
        """Return what was heard and where, each once, and forget it."""
        found: set[str] = set()
        for where, heard in self._sockets.items():
            with contextlib.suppress(BlockingIOError):
                while data := heard.recv(1 << 18):
                    found |= {f"{where}: {_told(heard, *message)}" for message in nl.messages(data)}
        # The way in of a stream comes up when the kernel has time for it.
        return {one for one in found if " of probe" not in one}

    def close(self) -> None:
        for heard in self._sockets.values():
            heard.close()


def _told(heard: socket.socket, kind: int, flags: int, sequence: int, body: bytes) -> str:
    name = Link(body).name if heard.proto == socket.NETLINK_ROUTE and kind in (nl.RTM_NEWLINK, nl.RTM_DELLINK) else body.hex()
    return f"message {kind} of {name}"


@contextlib.contextmanager
def listening(hosts: Hosts, *on: str) -> Iterator[Ear]:
    ear = Ear(hosts, *on)
    try:
        yield ear
    finally:
        ear.close()
