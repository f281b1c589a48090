"""A host, its data plane and its guests as network namespaces of one test, frames by hand, and a DHCP client; never the machine's own.

A guest is a namespace whose eth0 is the other end of a pair that plays the tap: libvirt's hook moves the tap as it moves any link.
"""

import contextlib
import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agent.network import links, names, netns
from agent.network import rtnetlink as nl

CHECKOUT = Path(__file__).resolve().parents[3]
HOOK = CHECKOUT / "agent" / "network" / "hook.py"
ETH_IP, ETH_ARP, ETH_IP6, ETH_ALL = 0x0800, 0x0806, 0x86DD, 3
HERE = "the namespace that this thread is in"
BROADCAST = "ff:ff:ff:ff:ff:ff"
MARK = b"KUMO-MARK"


def wait_for(what: str, is_so: Callable[[], object], deadline_s: float = 10.0) -> None:
    """Return when `is_so`; fail after `deadline_s`."""
    until = time.monotonic() + deadline_s
    while not is_so():
        assert time.monotonic() < until, f"{what} did not come true in {deadline_s} s"
        time.sleep(0.01)


def make_pair(name: str, peer: str, peer_mac: str, peer_namespace: str, mtu: int) -> None:
    """Make a pair of links: one here, the other in the namespace at `peer_namespace`."""
    route = nl.Netlink()
    with open(peer_namespace, "rb") as there:
        inner = links.ifinfo() + nl.text(links.IFLA_IFNAME, peer) + nl.u32(links.IFLA_NET_NS_FD, there.fileno())
        inner += nl.attribute(links.IFLA_ADDRESS, links.pack_mac(peer_mac)) + nl.u32(links.IFLA_MTU, mtu)
        info = nl.nest(links.IFLA_LINKINFO, nl.text(links.INFO_KIND, "veth"), nl.nest(links.INFO_DATA, nl.attribute(1, inner)))
        route.call(nl.RTM_NEWLINK, nl.NLM_F_CREATE | nl.NLM_F_EXCL, links.ifinfo() + nl.text(links.IFLA_IFNAME, name) + info)
    route.close()


def shell(namespace: str, *command: str) -> str:
    entered = command if namespace == HERE else ("nsenter", f"--net={namespace}", *command)
    done = subprocess.run(entered, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Guest:
    """What plays a server: a namespace with eth0."""

    namespace: str
    tap: str
    mac: str
    address: str
    prefix_length: int

    def configure(self, *extra: str) -> None:
        """Give eth0 its address by hand, and a route to the metadata service."""
        for address in (f"{self.address}/{self.prefix_length}", *extra):
            shell(self.namespace, "ip", "addr", "add", address, "dev", "eth0")
        shell(self.namespace, "ip", "route", "add", "169.254.169.254/32", "dev", "eth0", "scope", "link")

    def open(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        with netns.visit(self.namespace):
            return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)

    def raw(self, protocol: int = ETH_ALL) -> socket.socket:
        opened = self.open(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        opened.bind(("eth0", protocol))
        return opened

    def send(self, frame: bytes, count: int = 3) -> None:
        with self.raw() as opened:
            for _ in range(count):
                opened.send(frame)

    def ping(self, address: str, count: int = 3, source: str = "", wait_s: float = 0.3) -> int:
        """Return how many of `count` echo requests were answered within `wait_s` after the last."""
        identifier = struct.unpack(">H", os.urandom(2))[0]
        answered: set[int] = set()
        with self.open(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as opened:
            if source:
                opened.bind((source, 0))
            for number in range(count):
                head = struct.pack(">BBHHH", 8, 0, 0, identifier, number)
                message = head[:2] + struct.pack(">H", checksum(head + MARK)) + head[4:] + MARK
                with contextlib.suppress(OSError):
                    opened.sendto(message, (address, 0))
            until = time.monotonic() + wait_s
            while len(answered) < count and (left := until - time.monotonic()) > 0:
                opened.settimeout(left)
                with contextlib.suppress(OSError):
                    data, peer = opened.recvfrom(2048)
                    kind, _, _, same, number = struct.unpack_from(">BBHHH", data, (data[0] & 15) * 4)
                    if kind == 0 and same == identifier and peer[0] == address:
                        answered.add(number)
        return len(answered)

    def get(self, path: str, source: str = "", method: str = "GET", headers: str = "", timeout_s: float = 3.0) -> tuple[int, bytes]:
        """Ask the metadata service; (0, b"") when nobody answers in time."""
        with self.open(socket.AF_INET, socket.SOCK_STREAM) as opened:
            opened.settimeout(timeout_s)
            try:
                if source:
                    opened.bind((source, 0))
                opened.connect((names.METADATA_ADDRESS, names.METADATA_PORT))
                opened.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
                data = b""
                while part := opened.recv(65536):
                    data += part
            except OSError:
                return 0, b""
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


class Sniffer:
    """Counts what really arrives at a guest."""

    def __init__(self, guest: Guest) -> None:
        self._socket = guest.raw()

    def count(self, is_wanted: Callable[[bytes], bool] = lambda data: MARK in data, wait_s: float = 0.2, enough: int = 1) -> int:
        """Return how many frames came, waiting `wait_s` unless `enough` came before."""
        found, until = 0, time.monotonic() + wait_s
        with self._socket:
            while found < enough and (left := until - time.monotonic()) > 0:
                self._socket.settimeout(left)
                try:
                    data, source = self._socket.recvfrom(65536)
                except TimeoutError:
                    break
                found += source[2] != socket.PACKET_OUTGOING and is_wanted(data)
        return found


@dataclass
class Lab:
    """Directories and namespaces of one test, all removed at its end."""

    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kumo-net-")))
    guests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.chmod(0o755)  # the responder is nobody in particular

    @property
    def namespaces(self) -> Path:
        return self.directory / "ns"

    @property
    def plane(self) -> str:
        return str(self.namespaces / "dp")

    def namespace(self, name: str) -> str:
        """Make an empty namespace."""
        path = str(self.directory / name)
        netns.create(path)
        self.guests.append(path)
        return path

    def guest(self, port_uid: str, mac: str, address: str, prefix_length: int = 24, mtu: int = 1450) -> Guest:
        """Make a guest whose tap is where libvirt makes it: in the host's namespace, not plugged in."""
        namespace = self.namespace(f"g-{len(self.guests)}")
        tap = names.tap(port_uid)
        make_pair(tap, "eth0", mac, namespace, mtu)
        shell(namespace, "ip", "link", "set", "eth0", "up")
        return Guest(namespace, tap, mac, address, prefix_length)

    def hook(self, *taps: str, state: Path | None = None, operation: str = "start") -> subprocess.CompletedProcess[str]:
        """Run libvirt's hook as libvirt does."""
        xml = "<domain>" + "".join(f"<interface type='ethernet'><target dev='{tap}'/></interface>" for tap in taps) + "</domain>"
        command = [sys.executable, "-I", "-S", str(HOOK), "--state", str(state or self.directory / "network"), "g", operation, "begin", "-"]
        return subprocess.run(command, input=xml, capture_output=True, text=True, timeout=20, check=False)

    def boot(self) -> None:
        """Lose what a host loses when it is switched off: its namespaces and all in them."""
        for path in sorted(self.namespaces.glob("*")) if self.namespaces.exists() else []:
            netns.remove(str(path))

    def remove(self) -> None:
        self.boot()
        for namespace in self.guests:
            netns.remove(namespace)
        shutil.rmtree(self.directory, ignore_errors=True)


def move_link(name: str, namespace: str) -> None:
    """Move a link from here into the namespace at a path."""
    host = nl.Netlink()
    with open(namespace, "rb") as there:
        host.call_all([links.change(links.need(host, name).index, nl.u32(links.IFLA_NET_NS_FD, there.fileno()))])
    host.close()


@contextlib.contextmanager
def own_host() -> Iterator[None]:
    """Be on a host of the test's own inside the block: this thread, and every process and thread that is started from it."""
    directory = Path(tempfile.mkdtemp(prefix="kumo-host-"))
    path = str(directory / "host")
    netns.create(path)
    try:
        with netns.visit(path):
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
            yield
    finally:
        netns.remove(path)
        shutil.rmtree(directory, ignore_errors=True)


# ---- frames


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def ethernet(to: str, source: str, kind: int, payload: bytes) -> bytes:
    return links.pack_mac(to) + links.pack_mac(source) + struct.pack(">H", kind) + payload


def udp(source_port: int, port: int, data: bytes) -> bytes:
    return struct.pack(">HHHH", source_port, port, 8 + len(data), 0) + data


def ip4(source: str, to: str, payload: bytes, protocol: int = socket.IPPROTO_UDP, fragment: int = 0, identity: int = 1) -> bytes:
    addresses = (socket.inet_aton(source), socket.inet_aton(to))
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identity, fragment, 64, protocol, 0, *addresses)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ip6(source: str, to: str, payload: bytes, protocol: int, hops: int = 255) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, hops) + links.pack_address(source) + links.pack_address(to) + payload


def arp(operation: int, sender_mac: str, sender: str, target_mac: str, target: str) -> bytes:
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    return head + links.pack_mac(sender_mac) + socket.inet_aton(sender) + links.pack_mac(target_mac) + socket.inet_aton(target)


# ---- DHCP


@dataclass(frozen=True)
class Lease:
    address: str
    options: dict[int, bytes]
    kind: int


def dhcp_message(mac: str, kind: int, options: bytes = b"", client: str = "0.0.0.0", transaction: bytes = b"\1\2\3\4") -> bytes:
    head = b"\x01\x01\x06\x00" + transaction + bytes(4) + socket.inet_aton(client) + bytes(12) + links.pack_mac(mac) + bytes(10 + 192)
    return head + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options + b"\xff"


def dhcp_frame(mac: str, message: bytes, to: str = BROADCAST, source: str = "0.0.0.0", target: str = "255.255.255.255") -> bytes:
    return ethernet(to, mac, ETH_IP, ip4(source, target, udp(68, 67, message)))


def read_dhcp(frame: bytes) -> Lease | None:
    """Return what a server said in a frame, checksums included; None if it is no such frame."""
    if len(frame) < 282 or frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[34:38] != struct.pack(">HH", 67, 68):
        return None
    assert checksum(frame[14:34]) == 0
    datagram = frame[34:]
    assert checksum(frame[26:34] + struct.pack(">BBH", 0, 17, len(datagram)) + datagram) == 0
    message, options, at = datagram[8:], {}, 240
    while message[at] != 255:
        options[message[at]] = message[at + 2 : at + 2 + message[at + 1]]
        at += 2 + message[at + 1]
    return Lease(socket.inet_ntoa(message[16:20]), options, options[53][0])


def ask_dhcp(guest: Guest, frame: bytes, wait_s: float = 3.0) -> Lease | None:
    with guest.raw() as opened:
        try:
            opened.send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return None  # its link takes nothing any more
        until = time.monotonic() + wait_s
        while (left := until - time.monotonic()) > 0:
            opened.settimeout(left)
            try:
                data, source = opened.recvfrom(2048)
            except TimeoutError:
                break
            if source[2] != socket.PACKET_OUTGOING and (lease := read_dhcp(data)) is not None:
                return lease
    return None


def lease(guest: Guest, wait_s: float = 3.0) -> Lease | None:
    """Do what a DHCP client does: discover, then request what was offered."""
    offer = ask_dhcp(guest, dhcp_frame(guest.mac, dhcp_message(guest.mac, 1)), wait_s)
    if offer is None:
        return None
    wanted = bytes([50, 4]) + socket.inet_aton(offer.address) + bytes([54, 4]) + offer.options[54]
    return ask_dhcp(guest, dhcp_frame(guest.mac, dhcp_message(guest.mac, 3, wanted)), wait_s)


# ---- the responder


class ResponderProcess:
    """The responder as the supervisor starts it: as root, from a configuration file."""

    def __init__(self, lab: Lab, uid: int = 64104) -> None:
        self._config = lab.directory / "guest.toml"
        self.socket = lab.directory / "guest.sock"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.metrics_port = int(probe.getsockname()[1])
        self._config.write_text(
            f'directory = "{lab.directory}/guest"\nplane = "{lab.plane}"\nsocket = "{self.socket}"\n'
            f'metrics = "127.0.0.1:{self.metrics_port}"\nuid = {uid}\n'
        )
        self._log = lab.directory / "guest.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._log.write_bytes(b"")
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "agent.guest.main", "--config", str(self._config)]
            self.process = process = subprocess.Popen(command, stderr=log, stdout=log, cwd=CHECKOUT)
        wait_for("the responder", lambda: b"responder serves" in self._log.read_bytes() or process.poll() is not None)
        assert process.poll() is None, self._log.read_text()

    def status(self) -> dict[str, str]:
        """Return what the kernel says of the process."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def kill(self, number: int = 9) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)
            self.process = None

    def scrape(self) -> str:
        with socket.create_connection(("127.0.0.1", self.metrics_port), 5) as opened:
            opened.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            data = b""
            while part := opened.recv(65536):
                data += part
        return data.partition(b"\r\n\r\n")[2].decode()


class EchoStream:
    """Pings from one guest to another in a process of its own, while something is done to the host; then `sent` and `lost`."""

    def __init__(self, guest: Guest, address: str, per_second: int = 1000) -> None:
        echo = [sys.executable, "-I", "-S", str(Path(__file__).with_name("echo.py")), address, str(per_second)]
        self._command = ["nsenter", f"--net={guest.namespace}", *echo]
        self.sent = self.lost = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline() == "running\n"
        return self

    def __exit__(self, *_: object) -> None:
        said, _unused = self._process.communicate(timeout=20)
        self.sent, answered = map(int, said.split())
        self.lost = self.sent - answered
