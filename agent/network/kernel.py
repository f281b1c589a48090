"""The driver that works on the kernel: one data-plane namespace, in which all links of tenants live.

All but removals happen on one thread, so that nothing blocks the event loop and no two steps meet; what comes next is plan.py's.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.guest.sockets import open_dhcp, open_listener
from agent.network import admission, links, names, netns, rules
from agent.network import rtnetlink as nl
from agent.network.admission import Admission
from agent.network.driver import Inventory, Traffic, Wake
from agent.network.events import Events
from agent.network.fabric import Fabric
from agent.network.leg import MetadataLegs, write_sysctls
from agent.network.nft import Ruleset
from agent.network.plan import Entry, Network, ObservedNetwork, ObservedPort, Port, Tap
from kumo.errors import Unavailable

T = TypeVar("T")

_TIMEOUT_S = 30.0
# br_netfilter is switched on for Kumo's bridges one by one.
_PLANE_SYSCTLS = {
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
    "net/bridge/bridge-nf-call-arptables": "0",
}


@dataclass(frozen=True)
class KernelConfig:
    """Where the data plane lives. `namespaces` must be on a file system that ends with the host's boot, such as /run."""

    namespaces: Path
    state: Path
    tunnel_address: str
    tunnel_port: int

    @property
    def plane(self) -> Path:
        return self.namespaces / "dp"

    @property
    def taps(self) -> Path:
        """Where libvirt's hook reads which taps to plug in."""
        return self.state / "taps"


class KernelDriver:
    """The hands of the network role on a real host. Needs CAP_NET_ADMIN and CAP_SYS_ADMIN."""

    def __init__(self, config: KernelConfig) -> None:
        self._config = config
        self._taps = str(config.taps)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        # The kernel takes long over removals, and nobody waits for them.
        self._remover = ThreadPoolExecutor(1, thread_name_prefix="network-remover")
        self._stuck = False
        self._plane_fd = -1
        self._events: Events | None = None

    async def open(self, ports: Iterable[Port], tunnel_addresses: frozenset[str], wake: Wake, *, keep: bool) -> None:
        elements = frozenset[rules.Element]().union(*(_elements(port) for port in ports))
        await self._do(self._open, elements, rules.tunnel_elements(tunnel_addresses), keep)
        self._events = Events(str(self._config.plane), wake)

    def _open(self, elements: frozenset[rules.Element], tunnels: frozenset[rules.Element], keep: bool) -> None:
        for directory in (self._config.namespaces, self._config.state, self._config.taps):
            directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        plane = str(self._config.plane)
        netns.create(plane)
        self._plane_fd = os.open(plane, os.O_RDONLY | os.O_CLOEXEC)
        self._host_route = nl.Netlink()
        self._host_rules = Ruleset(
            rules.host(self._config.tunnel_port, self._config.tunnel_address), self._config.state / "host-rules.json"
        )
        with netns.visit(plane):
            write_sysctls(_PLANE_SYSCTLS)
            if not os.path.exists("/proc/sys/net/bridge"):
                raise Unavailable("NO_BR_NETFILTER", "the kernel cannot pass bridged packets to nftables", fix="modprobe br_netfilter")
            self._route, self._remover_route = nl.Netlink(), nl.Netlink()
            self._rules = Ruleset(rules.data_plane(), self._config.state / "rules.json")
        self._fabric = Fabric(self._host_route, self._route, self._plane_fd, (self._config.tunnel_address, self._config.tunnel_port))
        self._legs = MetadataLegs(self._route, self._config.namespaces)
        # Rules come before any link, and all at once: no tap is ever unguarded, and none is cut off while an agent starts.
        self._host_rules.begin(tunnels, keep=keep)
        self._rules.begin(elements, keep=keep)

    async def close(self) -> None:
        if self._events is not None:
            self._events.close()
        if self._plane_fd >= 0:
            await self._do(self._close)
        for thread in (self._thread, self._remover):
            thread.shutdown(wait=not self._stuck)

    def _close(self) -> None:
        for closing in (self._host_rules, self._rules, self._host_route, self._route, self._remover_route):
            closing.close()
        os.close(self._plane_fd)

    async def inventory(self) -> Inventory:
        return await self._do(self._inventory)

    def _inventory(self) -> Inventory:
        found = links.dump(self._route)
        vnis = {names.vni_of(link.name) for link in found} - {None}
        return Inventory(
            vnis=frozenset(vni for vni in vnis | self._legs.vnis() if vni is not None),
            taps=frozenset(link.name for link in found if link.name.startswith(names.TAP) and link.master),
            guarded=frozenset(rules.tap_of(element) for element in self._rules.in_force),
            admitted=frozenset(admission.taps(self._taps)),
            tunnel_addresses=frozenset(key for _, key in self._host_rules.in_force),
        )

    async def traffic(self) -> dict[str, Traffic]:
        return await self._do(self._traffic)

    def _traffic(self) -> dict[str, Traffic]:
        taps = (link for link in links.dump(self._route) if link.name.startswith(names.TAP))
        # What the host's end receives, the guest has sent.
        return {tap.name: Traffic(tap.sent_bytes, tap.sent_packets, tap.received_bytes, tap.received_packets) for tap in taps}

    async def mend_rules(self) -> None:
        await self._do(self._rules.change, (), ())
        await self._do(self._host_rules.change, (), ())

    async def observe_network(self, network: Network) -> ObservedNetwork:
        return await self._do(self._observe_network, network)

    def _observe_network(self, network: Network) -> ObservedNetwork:
        bridge, tunnel = self._fabric.has_bridge(network), self._fabric.has_tunnel(network)
        metadata, entries = self._legs.is_made(network), self._fabric.entries(network)
        found = (links.get(self._route, name) for name in (names.bridge(network.vni), names.tunnel(network.vni)))
        return ObservedNetwork(
            bridge=bridge,
            tunnel=tunnel,
            metadata=metadata,
            entries=entries,
            tunnels_admitted=self._host_rules.holds(rules.tunnel_elements(network.tunnel_addresses())),
            anything=bridge or tunnel or metadata or self._legs.exists(network.vni) or any(found),
        )

    async def make_bridge(self, network: Network) -> None:
        await self._do(self._fabric.make_bridge, network)

    async def make_tunnel(self, network: Network) -> None:
        await self._do(self._fabric.make_tunnel, network)

    async def make_metadata(self, network: Network) -> None:
        await self._do(self._legs.make, network)

    async def change_entries(self, network: Network, added: Iterable[Entry], removed: Iterable[Entry]) -> None:
        await self._do(self._fabric.change_entries, network, added, removed)

    async def admit_tunnels(self, tunnel_addresses: frozenset[str]) -> None:
        wanted = rules.tunnel_elements(tunnel_addresses)
        await self._do(lambda: self._host_rules.change(wanted, self._host_rules.in_force - wanted))

    async def open_listener(self, vni: int) -> socket.socket:
        return await self._do(open_listener, self._legs.path(vni))

    async def open_dhcp(self) -> socket.socket:
        return await self._do(open_dhcp, str(self._config.plane))

    async def remove_network(self, vni: int) -> None:
        await self._do(self._remove_network, vni, thread=self._remover)

    def _remove_network(self, vni: int) -> None:
        links.delete_all(self._remover_route, [name(vni) for name in (names.metadata_leg, names.tunnel, names.bridge)])
        self._legs.remove(vni)

    async def observe_port(self, tap: str, port: Port | None) -> ObservedPort:
        return await self._do(self._observe_port, tap, port)

    def _observe_port(self, tap: str, port: Port | None) -> ObservedPort:
        link, admitted = links.get(self._route, tap), admission.get(self._taps, tap)
        guarded = any(rules.tap_of(element) == tap for element in self._rules.in_force) if port is None else False
        if port is None:
            where = Tap.ABSENT if link is None else Tap.PLUGGED if link.master else Tap.LOOSE
            return ObservedPort(tap=where, anything=guarded or admitted is not None)
        bridge = self._fabric.bridge(port.vni)
        plugged = link is not None and bridge is not None and links.is_plugged(self._route, link, bridge, port.mac)
        return ObservedPort(
            network_ready=bridge is not None and bridge.up and self._legs.exists(port.vni),
            reachable=self._legs.knows(port.vni, port.address, port.mac),
            rules=self._rules.holds(_elements(port)),
            admitted=admitted is not None and admitted.text() == self._admission(port).text(),
            tap=Tap.ABSENT if link is None else Tap.PLUGGED if plugged else Tap.LOOSE,
        )

    async def put_reachable(self, port: Port) -> None:
        await self._do(self._legs.put_guest, port.vni, port.address, port.mac)

    async def put_rules(self, port: Port) -> None:
        await self._do(self._put_rules, port)

    def _put_rules(self, port: Port) -> None:
        wanted = _elements(port)
        others = {element for element in self._rules.in_force if rules.tap_of(element) == port.tap} - wanted
        self._rules.change(wanted, others)

    async def admit(self, port: Port) -> None:
        await self._do(admission.put, self._taps, port.tap, self._admission(port))

    def _admission(self, port: Port) -> Admission:
        return Admission(str(self._config.plane), names.bridge(port.vni), port.mac, port.mtu)

    async def plug(self, port: Port) -> None:
        await self._do(self._plug, port)

    def _plug(self, port: Port) -> None:
        tap = links.get(self._route, port.tap)
        if tap is not None:
            links.plug(self._route, tap, links.need(self._route, names.bridge(port.vni)), port.mac, port.mtu)
            links.keep_only_station(self._route, tap, port.mac)

    async def remove_tap(self, tap: str) -> None:
        await self._do(self._remove_tap, tap)

    def _remove_tap(self, tap: str) -> None:
        admission.remove(self._taps, tap)
        link = links.get(self._route, tap)
        if link is not None:
            self._route.call_all([links.change(link.index, up=False), links.change(link.index, nl.u32(links.IFLA_MASTER, 0))])
        self._rules.change((), {element for element in self._rules.in_force if rules.tap_of(element) == tap})

    async def remove_reachable(self, vni: int, address: str) -> None:
        await self._do(self._legs.remove_guest, vni, address)

    def metadata_namespace(self, vni: int) -> str:
        return self._legs.path(vni)

    async def _do(self, function: Callable[..., T], *arguments: object, thread: ThreadPoolExecutor | None = None) -> T:
        """Run on the driver's thread, or on another of its own.

        One that does not come back is not free: then nothing else is tried until the agent is restarted.
        """
        if self._stuck:
            raise Unavailable("NETWORK_STUCK", "the kernel does not answer the network driver", fix="restart the agent")
        work = asyncio.get_running_loop().run_in_executor(thread or self._thread, function, *arguments)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await asyncio.shield(work)
        except TimeoutError as error:
            self._stuck = not work.done()
            raise Unavailable("NETWORK_STUCK", f"the kernel did not answer for {_TIMEOUT_S:g} s") from error


def _elements(port: Port) -> frozenset[rules.Element]:
    return rules.port_elements(port.tap, port.mac, port.address)
