"""Makes and reads the bridge and the tunnel of a network, and the entries that replace learning. Blocks.

Each piece is either exactly as it shall be, or is brought there; which piece comes next is plan.py's. Ports are not its business.
"""

import struct
from collections.abc import Callable, Iterable

from agent.network import links, names
from agent.network import rtnetlink as nl
from agent.network.links import Link, PortFlags
from agent.network.plan import ARP, FAR, FDB, Entry, Network
from kumo.errors import Unavailable

_BR_FORWARD_DELAY, _BR_MCAST_SNOOPING = 1, 23
_BR_NF_CALL_IPTABLES, _BR_NF_CALL_IP6TABLES, _BR_NF_CALL_ARPTABLES = 36, 37, 38
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 7, 15, 17

# Unknown and broadcast frames never enter the fabric; ARP for ports of other hosts is answered here.
_TUNNEL_FLAGS = PortFlags(broadcast=False, neigh_suppress=True)


def _bridge_data() -> dict[int, bytes]:
    return {
        # There is no spanning tree to wait for, and yet the kernel would tell of each port once more when the usual 15 s have passed.
        _BR_FORWARD_DELAY: bytes(4),
        _BR_MCAST_SNOOPING: b"\0",
        _BR_NF_CALL_IPTABLES: b"\1",
        _BR_NF_CALL_IP6TABLES: b"\1",
        _BR_NF_CALL_ARPTABLES: b"\0",
    }


class Fabric:
    """The networks of one data plane. `host` and `plane` are netlink sockets of the two namespaces."""

    def __init__(self, host: nl.Netlink, plane: nl.Netlink, plane_fd: int, tunnel: tuple[str, int]) -> None:
        """`tunnel` is the host's own tunnel endpoint: address, UDP port."""
        self._host, self._plane, self._plane_fd = host, plane, plane_fd
        self._address, self._port = tunnel

    def bridge(self, vni: int) -> Link | None:
        return links.get(self._plane, names.bridge(vni))

    def has_bridge(self, network: Network) -> bool:
        link = self.bridge(network.vni)
        if link is None or (link.kind, link.mac, link.mtu, link.up) != ("bridge", names.bridge_mac(network.vni), network.mtu, True):
            return False
        return all(link.data.get(kind) == value for kind, value in _bridge_data().items())

    def make_bridge(self, network: Network) -> None:
        name = names.bridge(network.vni)
        link = links.get(self._plane, name)
        if link is not None and link.kind != "bridge":
            links.delete(self._plane, name)
        data = nl.nest(links.INFO_DATA, *(nl.attribute(kind, value) for kind, value in _bridge_data().items()))
        info = nl.nest(links.IFLA_LINKINFO, nl.text(links.INFO_KIND, "bridge"), data)
        address = nl.attribute(links.IFLA_ADDRESS, links.pack_mac(names.bridge_mac(network.vni)))
        self._plane.call(nl.RTM_NEWLINK, nl.NLM_F_CREATE, links.ifinfo() + nl.text(links.IFLA_IFNAME, name) + address + info)
        link = self._need(name)
        self._plane.call_all([links.change(link.index, nl.u32(links.IFLA_MTU, network.mtu)), links.change(link.index, up=True)])

    def has_tunnel(self, network: Network) -> bool:
        link, bridge = links.get(self._plane, names.tunnel(network.vni)), self.bridge(network.vni)
        if link is None or bridge is None or not self._is_tunnel(link, network.vni):
            return False
        return (link.mtu, link.up, link.master) == (network.mtu, True, bridge.index) and link.has_flags(_TUNNEL_FLAGS)

    def make_tunnel(self, network: Network) -> None:
        """Make the tunnel in the host's namespace, where its UDP socket stays, and move it into the data plane, in one request."""
        name = names.tunnel(network.vni)
        link, bridge = links.get(self._plane, name), self._need(names.bridge(network.vni))
        if link is not None and not self._is_tunnel(link, network.vni):
            links.delete(self._plane, name)
            link = None
        if link is None:
            self._create_tunnel(name, network.vni)
            link = self._need(name)
        joined = links.join(link.index, bridge.index, _TUNNEL_FLAGS)
        mtu = links.change(link.index, nl.u32(links.IFLA_MTU, network.mtu))
        self._plane.call_all([*joined, mtu, links.change(link.index, up=True)])

    def _create_tunnel(self, name: str, vni: int) -> None:
        local = nl.attribute(_VXLAN_LOCAL6 if ":" in self._address else _VXLAN_LOCAL, links.pack_address(self._address))
        port = nl.attribute(_VXLAN_PORT, struct.pack(">H", self._port))
        data = nl.nest(links.INFO_DATA, nl.u32(_VXLAN_ID, vni), nl.u8(_VXLAN_LEARNING, 0), port, local)
        info = nl.nest(links.IFLA_LINKINFO, nl.text(links.INFO_KIND, "vxlan"), data)
        body = links.ifinfo() + nl.text(links.IFLA_IFNAME, name) + nl.u32(links.IFLA_NET_NS_FD, self._plane_fd) + info
        try:
            self._host.call(nl.RTM_NEWLINK, nl.NLM_F_CREATE | nl.NLM_F_EXCL, body)
        except OSError as error:
            raise Unavailable(
                "TUNNEL_NOT_MADE",
                f"VXLAN {vni} on UDP port {self._port} of {self._address} could not be made: {error.strerror}",
                fix="look for another VXLAN with this number and port on the host",
                vni=vni,
            ) from error

    def _is_tunnel(self, link: Link, vni: int) -> bool:
        wanted = {
            _VXLAN_ID: struct.pack("=I", vni),
            _VXLAN_LEARNING: b"\0",
            _VXLAN_PORT: struct.pack(">H", self._port),
            _VXLAN_LOCAL6 if ":" in self._address else _VXLAN_LOCAL: links.pack_address(self._address),
        }
        return link.kind == "vxlan" and all(link.data.get(kind) == value for kind, value in wanted.items())

    def entries(self, network: Network) -> frozenset[Entry]:
        """Return the entries that stand for ports on other hosts."""
        found: set[Entry] = set()
        tunnel, bridge = links.get(self._plane, names.tunnel(network.vni)), self.bridge(network.vni)
        if tunnel is not None:
            found |= {Entry(FAR if far else FDB, mac, far) for mac, far in links.stations(self._plane, tunnel)}
        if bridge is not None:
            found |= {Entry(ARP, mac, address) for address, mac in links.neighbours(self._plane, bridge.index)}
        return frozenset(found)

    def change_entries(self, network: Network, added: Iterable[Entry], removed: Iterable[Entry]) -> None:
        tunnel, bridge = self._need(names.tunnel(network.vni)).index, self._need(names.bridge(network.vni)).index
        bodies: dict[str, Callable[[Entry], bytes]] = {
            FDB: lambda entry: links.station(tunnel, entry.mac),
            FAR: lambda entry: links.far_station(tunnel, entry.mac, entry.value),
            ARP: lambda entry: links.neighbour(bridge, entry.value, entry.mac),
        }
        # Removals first: the answer to ARP for an address that moved to another MAC is the same entry.
        links.take_all(self._plane, [bodies[entry.kind](entry) for entry in removed])
        self._plane.call_all([links.put(bodies[entry.kind](entry)) for entry in added])

    def _need(self, name: str) -> Link:
        return links.need(self._plane, name)
