"""Makes and reads the metadata namespace of a network: a pair of links to its bridge, 169.254.169.254 and who is behind it. Blocks.

Each network has its own, so that equal addresses of two networks never meet, and who asks is told by where and from what address.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

from agent.network import links, names, netns
from agent.network import rtnetlink as nl
from agent.network.links import PortFlags
from agent.network.plan import Network
from kumo.errors import Unavailable

_VETH_PEER = 1
_RTA_DST, _RTA_OIF, _RTA_PREFSRC = 1, 4, 7
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_AF_INET, _TABLE_MAIN, _SCOPE_LINK, _UNICAST = 2, 254, 253, 1

_FLAGS = PortFlags()
# The end inside; the name is the same in each namespace.
INNER = "m0"
# What a namespace of tenants must not inherit from the host.
_SYSCTLS = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv4/ip_forward": "0",
    "net/ipv4/ip_unprivileged_port_start": "0",  # the responder listens on port 80
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
}


def write_sysctls(more: dict[str, str] | None = None) -> None:
    """Set what tenants' namespaces have in common, and `more`. Called inside the namespace."""
    for name, value in (_SYSCTLS | (more or {})).items():
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)


class MetadataLegs:
    """The metadata namespaces of one data plane, pinned in `directory`."""

    def __init__(self, plane: nl.Netlink, directory: Path) -> None:
        self._plane = plane
        self._directory = directory

    def path(self, vni: int) -> str:
        return str(self._directory / names.metadata_namespace(vni))

    def exists(self, vni: int) -> bool:
        return netns.is_pinned(self.path(vni))

    def vnis(self) -> set[int]:
        found = (names.vni_of(f"{names.METADATA}{path.name.removeprefix('md-')}") for path in self._directory.glob("md-*"))
        return {vni for vni in found if vni is not None}

    def is_made(self, network: Network) -> bool:
        leg, bridge = links.get(self._plane, names.metadata_leg(network.vni)), links.get(self._plane, names.bridge(network.vni))
        if leg is None or bridge is None or not self.exists(network.vni):
            return False
        if (leg.kind, leg.mtu, leg.up, leg.master) != ("veth", network.mtu, True, bridge.index) or not leg.has_flags(_FLAGS):
            return False
        if links.stations(self._plane, leg) != {(names.METADATA_MAC, "")}:
            return False
        with self._inside(network.vni) as route:
            inner = links.get(route, INNER)
            if inner is None or (inner.mac, inner.mtu, inner.up) != (names.METADATA_MAC, network.mtu, True):
                return False
            return _routes(route, inner.index) == set(network.cidrs)

    def make(self, network: Network) -> None:
        if netns.create(self.path(network.vni)):
            links.delete(self._plane, names.metadata_leg(network.vni))
        with self._inside(network.vni, write_sysctls) as route:
            leg, inner = links.get(self._plane, names.metadata_leg(network.vni)), links.get(route, INNER)
            if leg is None or inner is None:
                links.delete(self._plane, names.metadata_leg(network.vni))
                self._create(network)
                leg, inner = links.need(self._plane, names.metadata_leg(network.vni)), links.need(route, INNER)
            _fill(route, inner.index, network)
        bridge = links.need(self._plane, names.bridge(network.vni))
        self._plane.call_all(
            [
                links.change(leg.index, nl.u32(links.IFLA_MTU, network.mtu)),
                *links.join(leg.index, bridge.index, _FLAGS),
                links.put(links.station(leg.index, names.METADATA_MAC)),
                links.change(leg.index, up=True),
            ]
        )
        links.keep_only_station(self._plane, leg, names.METADATA_MAC)

    def _create(self, network: Network) -> None:
        with open(self.path(network.vni), "rb") as namespace:
            mtu, address = nl.u32(links.IFLA_MTU, network.mtu), nl.attribute(links.IFLA_ADDRESS, links.pack_mac(names.METADATA_MAC))
            inside = nl.u32(links.IFLA_NET_NS_FD, namespace.fileno())
            inner = links.ifinfo() + nl.text(links.IFLA_IFNAME, INNER) + mtu + address + inside
            data = nl.nest(links.INFO_DATA, nl.attribute(_VETH_PEER, inner))
            info = nl.nest(links.IFLA_LINKINFO, nl.text(links.INFO_KIND, "veth"), data)
            name = nl.text(links.IFLA_IFNAME, names.metadata_leg(network.vni))
            self._plane.call(nl.RTM_NEWLINK, nl.NLM_F_CREATE | nl.NLM_F_EXCL, links.ifinfo() + name + mtu + info)

    def remove(self, vni: int) -> None:
        """Let the namespace go, which the leg leads to; whoever removes the network removes the leg."""
        netns.remove(self.path(vni))

    def guests(self, vni: int) -> set[tuple[str, str]]:
        """Return (address, MAC) of the guests that are answered."""
        if not self.exists(vni):
            return set()
        with self._inside(vni) as route:
            inner = links.get(route, INNER)
            return links.neighbours(route, inner.index) if inner is not None else set()

    def knows(self, vni: int, address: str, mac: str) -> bool:
        if not self.exists(vni):
            return False
        with self._inside(vni) as route:
            inner = links.get(route, INNER)
            return inner is not None and links.has_neighbour(route, inner.index, address, mac)

    def put_guest(self, vni: int, address: str, mac: str) -> None:
        """Answer a guest. What it says in ARP of itself is not asked for."""
        if not self.exists(vni):
            raise Unavailable("METADATA_MISSING", f"VXLAN {vni} has no metadata namespace", vni=vni)
        with self._inside(vni) as route:
            route.call_all([links.put(links.neighbour(links.need(route, INNER).index, address, mac))])

    def remove_guest(self, vni: int, address: str) -> None:
        gone = [(there, mac) for there, mac in self.guests(vni) if there == address]
        if gone:
            with self._inside(vni) as route:
                inner = links.need(route, INNER)
                links.take_all(route, [links.neighbour(inner.index, there, mac) for there, mac in gone])

    @contextmanager
    def _inside(self, vni: int, prepare: Callable[[], None] | None = None) -> Iterator[nl.Netlink]:
        """Give a socket of the namespace; the block itself runs outside."""
        with netns.visit(self.path(vni)):
            if prepare is not None:
                prepare()
            route = nl.Netlink()
        try:
            yield route
        finally:
            route.close()


def _fill(route: nl.Netlink, inner: int, network: Network) -> None:
    """Give the inner end its address and the routes to the guests, and no others."""
    own = links.pack_address(names.METADATA_ADDRESS)
    address = struct.pack("=BBBBi", _AF_INET, 32, 0, _SCOPE_LINK, inner) + nl.attribute(_IFA_LOCAL, own) + nl.attribute(_IFA_ADDRESS, own)
    create = nl.NLM_F_CREATE | nl.NLM_F_REPLACE
    mac = nl.attribute(links.IFLA_ADDRESS, links.pack_mac(names.METADATA_MAC))
    requests = [
        links.change(inner, nl.u32(links.IFLA_MTU, network.mtu), mac),
        links.change(inner, up=True),
        (nl.RTM_NEWADDR, create, address),
    ]
    requests += [(nl.RTM_NEWROUTE, create, _route(inner, cidr)) for cidr in network.cidrs]
    route.call_all(requests)
    stale = _routes(route, inner) - set(network.cidrs)
    route.call_all([(nl.RTM_DELROUTE, 0, _route(inner, cidr)) for cidr in stale])


def _route(inner: int, cidr: str) -> bytes:
    net = ip_network(cidr)
    head = struct.pack("=BBBBBBBBI", _AF_INET, net.prefixlen, 0, 0, _TABLE_MAIN, links.PROTOCOL, _SCOPE_LINK, _UNICAST, 0)
    source = nl.attribute(_RTA_PREFSRC, links.pack_address(names.METADATA_ADDRESS))
    return head + nl.attribute(_RTA_DST, net.network_address.packed) + nl.u32(_RTA_OIF, inner) + source


def _routes(route: nl.Netlink, inner: int) -> set[str]:
    """Return the address ranges that are reached over the inner end."""
    found: set[str] = set()
    for body in route.call(nl.RTM_GETROUTE, nl.NLM_F_DUMP, struct.pack("=BBBBBBBBI", _AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
        length, table = struct.unpack_from("=xB2xB", body)
        attributes = nl.attributes(body[12:])
        if table == _TABLE_MAIN and attributes.get(_RTA_OIF) == struct.pack("=I", inner):
            found.add(str(ip_network((attributes.get(_RTA_DST, bytes(4)), length))))
    return found
