"""DHCPv4 as a function: a frame and what a port shall be told → the frame of the answer, or None. No clock, no lease, no I/O.

Who asks was proven before: by the bridge that the frame came from and by its Ethernet source. Nothing in the frame is believed
otherwise, and whatever is malformed is not answered. Source: RFC 2131, 2132, 3442.
"""

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network

from agent.guest.files import PortAnswer
from agent.network import names


class Kind(IntEnum):
    """DHCP message types."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


_COOKIE = b"\x63\x82\x53\x63"
_OPTIONS_AT = 240
_PAD, _END = 0, 255
_MASK, _ROUTER, _DNS, _HOSTNAME, _MTU, _REQUESTED, _LEASE, _KIND, _SERVER = 1, 3, 6, 12, 26, 50, 51, 53, 54
_RENEW, _REBIND, _CLASSLESS = 58, 59, 121
_BROADCAST_FLAG = 0x8000
_LEASE_S = 86_400
_NONE = bytes(4)
_ALL = b"\xff" * 4
# The answer comes from the metadata service's address, which is always there, so that a guest can also renew by unicast.
_SELF = socket.inet_aton(names.METADATA_ADDRESS)
_SELF_MAC = bytes.fromhex(names.METADATA_MAC.replace(":", ""))


@dataclass(frozen=True)
class Request:
    """What a client asks; addresses are 4 bytes, zero where none was given."""

    kind: int
    transaction: bytes
    flags: int
    client_address: bytes
    requested: bytes
    server: bytes
    hardware: bytes  # the 16 bytes of the field, as they are to be returned
    mac: bytes


def parse(frame: bytes) -> Request | None:
    """Return the request in an Ethernet frame, or None if it is not one of this guest's own."""
    if len(frame) < 14 + 20 + 8 or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4:
        return None
    header = (frame[14] & 15) * 4
    if header < 20 or frame[23] != socket.IPPROTO_UDP:
        return None
    udp = frame[14 + header :]
    if len(udp) < 8:
        return None
    source, destination, length = struct.unpack_from(">HHH", udp)
    message = udp[8:length]
    if (source, destination) != (68, 67) or length > len(udp) or len(message) < _OPTIONS_AT:
        return None
    mac = frame[6:12]
    is_own = message[:3] == b"\x01\x01\x06" and message[28:34] == mac and message[24:28] == _NONE and message[236:240] == _COOKIE
    options = _options(message[_OPTIONS_AT:])
    if not is_own or options is None or len(options.get(_KIND, b"")) != 1:
        return None
    (flags,) = struct.unpack_from(">H", message, 10)
    requested, server = options.get(_REQUESTED, _NONE), options.get(_SERVER, _NONE)
    if len(requested) != 4 or len(server) != 4:
        return None
    return Request(options[_KIND][0], message[4:8], flags, message[12:16], requested, server, message[28:44], mac)


def _options(data: bytes) -> dict[int, bytes] | None:
    """Return the options by code, or None if one says that it is longer than what is there."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            return None
        found[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return found


def decide(request: Request, address: bytes) -> Kind | None:
    """Return how the port with this address is answered; None for silence, as when it has chosen another server."""
    match request.kind:
        case Kind.DISCOVER:
            return Kind.OFFER
        case Kind.REQUEST:
            if request.server not in (_NONE, _SELF):
                return None
            asked = request.requested if request.requested != _NONE else request.client_address
            return Kind.ACK if asked == address else Kind.NAK
        case Kind.INFORM:
            return Kind.ACK
        case _:
            return None


def answer(frame: bytes, port: PortAnswer) -> tuple[Kind, bytes] | None:
    """Return what is said and the frame that says it; None if there is nothing to say."""
    request = parse(frame)
    if request is None or request.mac.hex(":") != port.mac:
        return None
    address = socket.inet_aton(port.address)
    kind = decide(request, address)
    return None if kind is None else (kind, _frame(kind, request, address, port))


def _frame(kind: Kind, request: Request, address: bytes, port: PortAnswer) -> bytes:
    informs = request.kind == Kind.INFORM
    options = _option(_KIND, bytes([kind])) + _option(_SERVER, _SELF)
    if kind is not Kind.NAK:
        options += _told(port, lease=not informs)
    given = _NONE if kind is Kind.NAK or informs else address
    client = request.client_address if kind is Kind.ACK else _NONE
    head = b"\x02\x01\x06\x00" + request.transaction + bytes(2) + struct.pack(">H", request.flags) + client + given + _NONE + _NONE
    message = (head + request.hardware + bytes(192) + _COOKIE + options + bytes([_END])).ljust(300, b"\0")
    wide = kind is Kind.NAK or bool(request.flags & _BROADCAST_FLAG)
    to = _ALL if wide else address
    to_mac = b"\xff" * 6 if wide else request.mac
    return to_mac + _SELF_MAC + b"\x08\x00" + _ip(to, _udp(to, message))


def _told(port: PortAnswer, *, lease: bool) -> bytes:
    """Return the options of a port. Clients ignore option 3 beside option 121, so the latter repeats the default route."""
    mask = IPv4Network((0, port.prefix_length)).netmask.packed
    options = _option(_MASK, mask) + _option(_MTU, struct.pack(">H", port.mtu))
    if lease:
        times = ((_LEASE, _LEASE_S), (_RENEW, _LEASE_S // 2), (_REBIND, _LEASE_S * 7 // 8))
        options += b"".join(_option(code, struct.pack(">I", seconds)) for code, seconds in times)
    routes = b"\x20" + _SELF + _NONE
    if port.gateway:
        gateway = socket.inet_aton(port.gateway)
        options += _option(_ROUTER, gateway)
        routes += b"\x00" + gateway
    options += _option(_CLASSLESS, routes)
    if port.dns_servers:
        options += _option(_DNS, b"".join(socket.inet_aton(address) for address in port.dns_servers[:8]))
    if port.hostname:
        options += _option(_HOSTNAME, port.hostname.encode()[:63])
    return options


def _option(code: int, data: bytes) -> bytes:
    return bytes([code, len(data)]) + data


def _udp(to: bytes, message: bytes) -> bytes:
    length = 8 + len(message)
    head = struct.pack(">HHHH", 67, 68, length, 0)
    pseudo = _SELF + to + struct.pack(">BBH", 0, socket.IPPROTO_UDP, length)
    return head[:6] + struct.pack(">H", checksum(pseudo + head + message) or 0xFFFF) + message


def _ip(to: bytes, payload: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0x10, 20 + len(payload), 0, 0, 64, socket.IPPROTO_UDP, 0, _SELF, to)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
