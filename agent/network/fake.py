"""A driver with no kernel behind it, for tests and simulations of many hosts: it keeps what it was told in one file.

It has the same order of things as the real one (a tap needs a bridge, an address needs a metadata namespace) and loses everything
that a reboot loses when boot() is called. Taps come and go by add_tap() and drop_tap(), as a hypervisor would have it.
"""

import json
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.network import names, rules
from agent.network.driver import RULES, Inventory, Traffic, Wake
from agent.network.plan import Entry, Network, ObservedNetwork, ObservedPort, Port, Tap
from kumo.errors import Unavailable


@dataclass
class _Kernel:
    """All that a real host would keep in its kernel, and in the files for libvirt's hook."""

    bridges: dict[str, int] = field(default_factory=dict)  # name: MTU
    tunnels: dict[str, int] = field(default_factory=dict)
    legs: dict[str, list[str]] = field(default_factory=dict)  # name: ranges
    guests: dict[str, dict[str, str]] = field(default_factory=dict)  # name of a leg: {address: MAC}
    entries: dict[str, list[list[str]]] = field(default_factory=dict)
    taps: dict[str, str] = field(default_factory=dict)  # name: bridge or ""
    rules: list[list[str]] = field(default_factory=list)
    tunnel_addresses: list[str] = field(default_factory=list)
    admitted: dict[str, list[str]] = field(default_factory=dict)  # tap: bridge, MAC


class FakeDriver:
    """The hands of the network role on no host at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kernel = _Kernel(**json.loads(path.read_text())) if path.exists() else _Kernel()
        self._wake: Wake = lambda _: None
        self._flushed = False
        self.change_count = 0

    # ---- what a hypervisor, a reboot or a careless hand does

    def add_tap(self, name: str) -> None:
        """Do as libvirt and its hook do: raises LookupError for a tap that is not admitted."""
        bridge, _ = self._kernel.admitted[name]
        self._kernel.taps[name] = bridge
        self._save()
        self._wake(name)

    def drop_tap(self, name: str) -> None:
        self._kernel.taps.pop(name, None)
        self._save()
        self._wake(name)

    def boot(self) -> None:
        admitted = self._kernel.admitted  # these are files
        self._kernel = _Kernel(admitted=admitted)
        self._save()

    def flush_rules(self) -> None:
        self._flushed = True
        self._wake(RULES)

    def lose(self, link: str) -> None:
        """Remove a bridge, tunnel or metadata leg behind the driver's back."""
        for kept in (self._kernel.bridges, self._kernel.tunnels, self._kernel.legs, self._kernel.entries):
            kept.pop(link, None)
        self._kernel.taps = {tap: "" if bridge == link else bridge for tap, bridge in self._kernel.taps.items()}
        self._save()
        self._wake(link)

    def add_stray(self, vni: int, tap: str) -> None:
        """Leave a bridge and a tap on it that nobody wants."""
        self._kernel.bridges[names.bridge(vni)] = 1450
        self._kernel.taps[tap] = names.bridge(vni)
        self._save()

    def lets_through(self, tap: str) -> bool:
        return not self._flushed and any(rules.tap_of((name, key)) == tap for name, key in self._kernel.rules)

    # ---- the driver

    async def open(self, ports: Iterable[Port], tunnel_addresses: frozenset[str], wake: Wake, *, keep: bool) -> None:
        wanted = {tuple(element) for port in ports for element in rules.port_elements(port.tap, port.mac, port.address)}
        kept = {(name, key) for name, key in self._kernel.rules} if keep else set()
        self._set_rules(wanted | kept)
        self._kernel.tunnel_addresses = sorted(tunnel_addresses)
        self._wake = wake
        self._save()

    async def close(self) -> None:
        self._save()

    async def inventory(self) -> Inventory:
        kernel = self._kernel
        vnis = {names.vni_of(name) for name in (*kernel.bridges, *kernel.tunnels, *kernel.legs)}
        return Inventory(
            vnis=frozenset(vni for vni in vnis if vni is not None),
            taps=frozenset(tap for tap, bridge in kernel.taps.items() if bridge),
            guarded=frozenset(rules.tap_of((name, key)) for name, key in kernel.rules),
            admitted=frozenset(kernel.admitted),
            tunnel_addresses=frozenset(kernel.tunnel_addresses),
        )

    async def mend_rules(self) -> None:
        self._flushed = False

    async def traffic(self) -> dict[str, Traffic]:
        """Return that nothing went through: there are no guests."""
        return {tap: Traffic(0, 0, 0, 0) for tap in self._kernel.taps}

    async def observe_network(self, network: Network) -> ObservedNetwork:
        kernel, bridge = self._kernel, names.bridge(network.vni)
        tunnel, leg = names.tunnel(network.vni), names.metadata_leg(network.vni)
        has_bridge = kernel.bridges.get(bridge) == network.mtu
        return ObservedNetwork(
            bridge=has_bridge,
            tunnel=has_bridge and kernel.tunnels.get(tunnel) == network.mtu,
            metadata=has_bridge and kernel.legs.get(leg) == sorted(network.cidrs),
            entries=frozenset(Entry(*parts) for parts in kernel.entries.get(tunnel, [])),
            tunnels_admitted=network.tunnel_addresses() <= set(kernel.tunnel_addresses),
            anything=bridge in kernel.bridges or tunnel in kernel.tunnels or leg in kernel.legs,
        )

    async def make_bridge(self, network: Network) -> None:
        self._changed()
        self._kernel.bridges[names.bridge(network.vni)] = network.mtu
        self._save()

    async def make_tunnel(self, network: Network) -> None:
        self._need(names.bridge(network.vni), self._kernel.bridges)
        self._changed()
        self._kernel.tunnels[names.tunnel(network.vni)] = network.mtu
        self._save()

    async def make_metadata(self, network: Network) -> None:
        self._need(names.bridge(network.vni), self._kernel.bridges)
        self._changed()
        self._kernel.legs[names.metadata_leg(network.vni)] = sorted(network.cidrs)
        self._kernel.guests.setdefault(names.metadata_leg(network.vni), {})
        self._save()

    async def change_entries(self, network: Network, added: Iterable[Entry], removed: Iterable[Entry]) -> None:
        tunnel = names.tunnel(network.vni)
        self._need(tunnel, self._kernel.tunnels)
        self._changed()
        before = {Entry(*parts) for parts in self._kernel.entries.get(tunnel, [])}
        after = (before - set(removed)) | set(added)
        self._kernel.entries[tunnel] = sorted([entry.kind, entry.mac, entry.value] for entry in after)
        self._save()

    async def admit_tunnels(self, tunnel_addresses: frozenset[str]) -> None:
        self._changed()
        self._kernel.tunnel_addresses = sorted(tunnel_addresses)
        self._save()

    async def open_listener(self, vni: int) -> socket.socket:
        self._need(names.metadata_leg(vni), self._kernel.legs)
        return socket.create_server(("127.0.0.1", 0))

    async def open_dhcp(self) -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def remove_network(self, vni: int) -> None:
        self._changed()
        for kept in (self._kernel.bridges, self._kernel.tunnels, self._kernel.legs, self._kernel.entries, self._kernel.guests):
            for name in (names.bridge(vni), names.tunnel(vni), names.metadata_leg(vni)):
                kept.pop(name, None)
        self._save()

    async def observe_port(self, tap: str, port: Port | None) -> ObservedPort:
        kernel = self._kernel
        guarded = any(rules.tap_of((name, key)) == tap for name, key in kernel.rules)
        bridge = kernel.taps.get(tap)
        if port is None:
            where = Tap.ABSENT if bridge is None else Tap.PLUGGED if bridge else Tap.LOOSE
            return ObservedPort(tap=where, anything=guarded or tap in kernel.admitted)
        wanted = {tuple(element) for element in rules.port_elements(tap, port.mac, port.address)}
        leg, own = names.metadata_leg(port.vni), names.bridge(port.vni)
        return ObservedPort(
            network_ready=own in kernel.bridges and leg in kernel.legs,
            reachable=kernel.guests.get(leg, {}).get(port.address) == port.mac,
            rules=not self._flushed and wanted <= {(name, key) for name, key in kernel.rules},
            admitted=kernel.admitted.get(tap) == [own, port.mac],
            tap=Tap.ABSENT if bridge is None else Tap.PLUGGED if bridge == own else Tap.LOOSE,
        )

    async def put_reachable(self, port: Port) -> None:
        leg = names.metadata_leg(port.vni)
        self._need(leg, self._kernel.legs)
        self._changed()
        self._kernel.guests.setdefault(leg, {})[port.address] = port.mac
        self._save()

    async def put_rules(self, port: Port) -> None:
        self._changed()
        others = {(name, key) for name, key in self._kernel.rules if rules.tap_of((name, key)) != port.tap}
        self._set_rules(others | rules.port_elements(port.tap, port.mac, port.address))
        self._flushed = False
        self._save()

    async def admit(self, port: Port) -> None:
        self._changed()
        self._kernel.admitted[port.tap] = [names.bridge(port.vni), port.mac]
        self._save()

    async def plug(self, port: Port) -> None:
        self._need(names.bridge(port.vni), self._kernel.bridges)
        self._changed()
        if port.tap in self._kernel.taps:
            self._kernel.taps[port.tap] = names.bridge(port.vni)
        self._save()

    async def remove_tap(self, tap: str) -> None:
        self._changed()
        self._kernel.admitted.pop(tap, None)
        if tap in self._kernel.taps:
            self._kernel.taps[tap] = ""
        self._set_rules({(name, key) for name, key in self._kernel.rules if rules.tap_of((name, key)) != tap})
        self._save()

    async def remove_reachable(self, vni: int, address: str) -> None:
        self._changed()
        self._kernel.guests.get(names.metadata_leg(vni), {}).pop(address, None)
        self._save()

    def metadata_namespace(self, vni: int) -> str:
        return f"/nowhere/{names.metadata_namespace(vni)}"

    def _changed(self) -> None:
        self.change_count += 1

    def _set_rules(self, elements: Iterable[tuple[str, ...]]) -> None:
        self._kernel.rules = sorted(list(element) for element in elements)

    @staticmethod
    def _need(name: str, there: Iterable[str]) -> None:
        if name not in there:
            raise Unavailable("LINK_MISSING", f"{name} is not in the data plane", link=name)

    def _save(self) -> None:
        fresh = self._path.with_name(f".{self._path.name}.new")
        fresh.write_text(json.dumps(vars(self._kernel)))
        os.replace(fresh, self._path)
