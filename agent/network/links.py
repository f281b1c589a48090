"""Links as the kernel has them: read, change, join to a bridge, and the entries that say where frames go. Decides nothing.

libvirt's hook joins taps with the same functions as the agent, hence plain classes and nothing that takes long to import.
"""

from __future__ import annotations

import _socket
import errno
import struct

from agent.network import rtnetlink as nl

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_TXQLEN = 1, 3, 4, 10, 13
IFLA_LINKINFO, IFLA_STATS64, IFLA_GROUP, IFLA_NET_NS_FD = 18, 23, 27, 28
INFO_KIND, INFO_DATA, INFO_SLAVE_KIND, INFO_SLAVE_DATA = 1, 2, 4, 5
BRPORT_LEARNING, BRPORT_FLOOD, BRPORT_MCAST_FLOOD, BRPORT_BCAST_FLOOD, BRPORT_NEIGH_SUPPRESS = 8, 9, 27, 30, 32
IFF_UP = 1
NDA_DST, NDA_LLADDR, NDA_IFINDEX, NDA_MASTER, NDA_PROTOCOL = 1, 2, 8, 9, 12
NTF_SELF, NTF_MASTER = 0x02, 0x04
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
# Marks neighbours and routes as Kumo's, also to an agent that lost its memory.
PROTOCOL = 0x4B
QUEUE_LENGTH = 1000
# Links that go together get a group of this and the number of one of them.
_DYING = 0x4B000000


class PortFlags:
    """What a bridge may do with a port. Nothing is learned from frames and nothing unknown is flooded."""

    def __init__(self, *, broadcast: bool = True, neigh_suppress: bool = False) -> None:
        self.broadcast, self.neigh_suppress = broadcast, neigh_suppress

    def pairs(self) -> tuple[tuple[int, int], ...]:
        return (
            (BRPORT_LEARNING, 0),
            (BRPORT_FLOOD, 0),
            (BRPORT_MCAST_FLOOD, self.broadcast),
            (BRPORT_BCAST_FLOOD, self.broadcast),
            (BRPORT_NEIGH_SUPPRESS, self.neigh_suppress),
        )


TAP_FLAGS = PortFlags()


class Link:
    """One link, as the body of RTM_NEWLINK says. `data` and `port` hold the attributes of its kind and of its place on a bridge."""

    def __init__(self, body: bytes) -> None:
        self.index, flags = struct.unpack_from("=4xiI", body)
        found = nl.attributes(body[16:])
        info = nl.attributes(found.get(IFLA_LINKINFO, b""))
        self.name: str = found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        self.kind: str = info.get(INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
        self.mac: str = found.get(IFLA_ADDRESS, b"").hex(":")
        self.mtu: int = struct.unpack("=I", found.get(IFLA_MTU, bytes(4)))[0]
        self.up = bool(flags & IFF_UP)
        self.master: int = struct.unpack("=I", found.get(IFLA_MASTER, bytes(4)))[0]
        counts = found.get(IFLA_STATS64, bytes(32))
        self.received_packets, self.sent_packets, self.received_bytes, self.sent_bytes = struct.unpack_from("=4Q", counts)
        self.data = nl.attributes(info.get(INFO_DATA, b""))
        self.port = nl.attributes(info.get(INFO_SLAVE_DATA, b""))

    def has_flags(self, flags: PortFlags) -> bool:
        return all(self.port.get(kind) == bytes([value]) for kind, value in flags.pairs())


def pack_mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def pack_address(address: str) -> bytes:
    return _socket.inet_pton(_socket.AF_INET6 if ":" in address else _socket.AF_INET, address)


def ifinfo(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, change)


def get(route: nl.Netlink, name: str) -> Link | None:
    try:
        answers = route.call(nl.RTM_GETLINK, 0, ifinfo() + nl.text(IFLA_IFNAME, name))
    except OSError as error:
        if nl.is_missing(error):
            return None
        raise
    return Link(answers[0])


def need(route: nl.Netlink, name: str) -> Link:
    """Return a link that must be there; FileNotFoundError says that it is not."""
    link = get(route, name)
    if link is None:
        raise FileNotFoundError(errno.ENODEV, f"no link {name}")
    return link


def dump(route: nl.Netlink) -> list[Link]:
    return [Link(body) for body in route.call(nl.RTM_GETLINK, nl.NLM_F_DUMP, ifinfo())]


def change(index: int, *attributes: bytes, up: bool | None = None) -> tuple[int, int, bytes]:
    """Return the request that changes a link, with the flag up where it is given."""
    flags = 0 if up is None else int(up)
    return nl.RTM_NEWLINK, 0, ifinfo(index, flags, 0 if up is None else IFF_UP) + b"".join(attributes)


def delete(route: nl.Netlink, name: str) -> bool:
    """Remove a link; return False if there was none."""
    try:
        route.call(nl.RTM_DELLINK, 0, ifinfo() + nl.text(IFLA_IFNAME, name))
    except OSError as error:
        if nl.is_missing(error):
            return False
        raise
    return True


def delete_all(route: nl.Netlink, names: list[str]) -> None:
    """Remove links in one go, those that are there: each on its own would cost a grace period or two of the kernel."""
    found = [link for name in names if (link := get(route, name)) is not None]
    if found:
        group = _DYING | found[0].index
        route.call_all([change(link.index, nl.u32(IFLA_GROUP, group)) for link in found])
        route.call(nl.RTM_DELLINK, 0, ifinfo() + nl.u32(IFLA_GROUP, group))


def join(link: int, bridge: int, flags: PortFlags) -> list[tuple[int, int, bytes]]:
    """Return the requests that put a link on a bridge. Flags fall back to the defaults at each joining, so they come along."""
    port = nl.nest(INFO_SLAVE_DATA, *(nl.u8(kind, value) for kind, value in flags.pairs()))
    return [
        change(link, nl.u32(IFLA_MASTER, bridge)),
        change(link, nl.nest(IFLA_LINKINFO, nl.text(INFO_SLAVE_KIND, "bridge"), port)),
    ]


def _neighbour(family: int, index: int, state: int, flags: int, *attributes: bytes) -> bytes:
    return struct.pack("=BxxxiHBB", family, index, state, flags, 0) + b"".join(attributes)


def station(link: int, mac: str) -> bytes:
    """Return the body of a bridge's entry that says: behind this link is this address, for good."""
    return _neighbour(_socket.AF_BRIDGE, link, NUD_NOARP, NTF_MASTER, nl.attribute(NDA_LLADDR, pack_mac(mac)))


def far_station(link: int, mac: str, tunnel_address: str) -> bytes:
    """Return the body of a tunnel's entry that says which host a MAC address is on."""
    address = nl.attribute(NDA_DST, pack_address(tunnel_address))
    return _neighbour(_socket.AF_BRIDGE, link, NUD_NOARP | NUD_PERMANENT, NTF_SELF, nl.attribute(NDA_LLADDR, pack_mac(mac)), address)


def neighbour(link: int, address: str, mac: str) -> bytes:
    """Return the body of a permanent neighbour."""
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    destination, lladdr = nl.attribute(NDA_DST, pack_address(address)), nl.attribute(NDA_LLADDR, pack_mac(mac))
    return _neighbour(family, link, NUD_PERMANENT, 0, destination, lladdr, nl.u8(NDA_PROTOCOL, PROTOCOL))


def put(body: bytes) -> tuple[int, int, bytes]:
    return nl.RTM_NEWNEIGH, nl.NLM_F_CREATE | nl.NLM_F_REPLACE, body


def take(body: bytes) -> tuple[int, int, bytes]:
    return nl.RTM_DELNEIGH, 0, body


def take_all(route: nl.Netlink, bodies: list[bytes]) -> None:
    """Remove entries; those that are gone already are passed over."""
    for failure, _ in route.try_all([take(body) for body in bodies]):
        if failure is not None and not nl.is_missing(failure):
            raise failure


def stations(route: nl.Netlink, link: Link) -> set[tuple[str, str]]:
    """Return (MAC, tunnel address or "") of the entries of one link that do not age, on its bridge and, for a tunnel, of its own.

    Those that say "this address is the host's" count too, but for that of the link itself, which the kernel makes.
    """
    found: set[tuple[str, str]] = set()
    for body in route.call(nl.RTM_GETNEIGH, nl.NLM_F_DUMP, _neighbour(_socket.AF_BRIDGE, link.index, 0, 0)):
        index, state, flags = struct.unpack_from("=4xiHB", body)
        attributes = nl.attributes(body[12:])
        mac = attributes.get(NDA_LLADDR, b"").hex(":")
        if index != link.index or not state & (NUD_NOARP | NUD_PERMANENT):
            continue
        if NDA_DST in attributes:
            family = _socket.AF_INET if len(attributes[NDA_DST]) == 4 else _socket.AF_INET6
            found.add((mac, _socket.inet_ntop(family, attributes[NDA_DST])))
        elif flags & NTF_SELF == 0 and mac != link.mac:
            found.add((mac, ""))
    return found


def keep_only_station(route: nl.Netlink, link: Link, mac: str) -> None:
    """Remove what somebody entered for a link that is behind a bridge's port for one address alone."""
    take_all(route, [station(link.index, other) for other, far in stations(route, link) if other != mac and not far])


def neighbours(route: nl.Netlink, link: int) -> set[tuple[str, str]]:
    """Return (address, MAC) of the permanent neighbours of one link."""
    found: set[tuple[str, str]] = set()
    for family in (_socket.AF_INET, _socket.AF_INET6):
        request = _neighbour(family, 0, 0, 0, nl.u32(NDA_IFINDEX, link))
        for body in route.call(nl.RTM_GETNEIGH, nl.NLM_F_DUMP, request):
            index, state = struct.unpack_from("=4xiH", body)
            attributes = nl.attributes(body[12:])
            if index == link and state & NUD_PERMANENT and NDA_DST in attributes:
                found.add((_socket.inet_ntop(family, attributes[NDA_DST]), attributes.get(NDA_LLADDR, b"").hex(":")))
    return found


def has_neighbour(route: nl.Netlink, link: int, address: str, mac: str) -> bool:
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    try:
        answers = route.call(nl.RTM_GETNEIGH, 0, _neighbour(family, link, 0, 0, nl.attribute(NDA_DST, pack_address(address))))
    except OSError as error:
        if nl.is_missing(error):
            return False
        raise
    (state,) = struct.unpack_from("=8xH", answers[0])
    return bool(state & NUD_PERMANENT) and nl.attributes(answers[0][12:]).get(NDA_LLADDR) == pack_mac(mac)


def plug(route: nl.Netlink, tap: Link, bridge: Link, mac: str, mtu: int) -> None:
    """Put a tap on its bridge and bring it up. Whatever was queued for it before is dropped: a guest reads nothing of the host's."""
    empty = change(tap.index, nl.u32(IFLA_TXQLEN, 0))
    route.call_all(
        [
            change(tap.index, up=False),
            *join(tap.index, bridge.index, TAP_FLAGS),
            put(station(tap.index, mac)),
            change(tap.index, nl.u32(IFLA_MTU, mtu)),
            empty,
            change(tap.index, nl.u32(IFLA_TXQLEN, QUEUE_LENGTH)),
            change(tap.index, up=True),
        ]
    )


def is_plugged(route: nl.Netlink, tap: Link, bridge: Link, mac: str) -> bool:
    return tap.up and tap.master == bridge.index and tap.has_flags(TAP_FLAGS) and stations(route, tap) == {(mac, "")}


def is_taken(error: OSError) -> bool:
    return error.errno == errno.EEXIST
