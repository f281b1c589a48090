"""What the network reconciler needs of a host: observe one thing, take one step. kernel.py does it, fake.py plays it.

Each method is idempotent and raises kumo.errors.Unavailable, or OSError, when the host refuses; then the step is taken again later.
"""

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from agent.network.plan import Entry, Network, ObservedNetwork, ObservedPort, Port

# What `wake` is called with when packet rules changed.
RULES = "rules"
Wake = Callable[[str | None], None]


@dataclass(frozen=True)
class Inventory:
    """What of Kumo's there is on the host, by what its names say, whether or not anybody wants it."""

    vnis: frozenset[int]
    taps: frozenset[str]  # taps that are on a bridge
    guarded: frozenset[str]  # taps that rules let through
    admitted: frozenset[str]  # taps that the hook would plug in
    tunnel_addresses: frozenset[str]  # whose frames are let in


@dataclass(frozen=True)
class Traffic:
    """What a guest sent and received through its tap since that was made."""

    received_bytes: int
    received_packets: int
    sent_bytes: int
    sent_packets: int


class Driver(Protocol):
    """The hands of the network role. `recorded`, `served` and `answer` of what is observed are not its to know."""

    async def open(self, ports: Iterable[Port], tunnel_addresses: frozenset[str], wake: Wake, *, keep: bool) -> None:
        """Make the data plane, or find it, with the rules of all `ports` in force at once.

        `keep`: whatever else is in force stays, as it is not certain that nobody wants it. `wake` is called with the name of a link
        that changed, with RULES, or with None when anything may have changed.
        """

    async def close(self) -> None: ...

    async def inventory(self) -> Inventory: ...

    async def traffic(self) -> dict[str, Traffic]:
        """Return what went through each tap that there is, by its name."""

    async def mend_rules(self) -> None:
        """Bring the rules that were committed into force again, if anybody changed any."""

    async def observe_network(self, network: Network) -> ObservedNetwork: ...

    async def make_bridge(self, network: Network) -> None: ...

    async def make_tunnel(self, network: Network) -> None: ...

    async def make_metadata(self, network: Network) -> None: ...

    async def change_entries(self, network: Network, added: Iterable[Entry], removed: Iterable[Entry]) -> None: ...

    async def admit_tunnels(self, tunnel_addresses: frozenset[str]) -> None:
        """Let frames in from exactly these tunnel endpoints."""

    async def open_listener(self, vni: int) -> socket.socket:
        """Return a socket that listens on 169.254.169.254:80 of one network."""

    async def open_dhcp(self) -> socket.socket:
        """Return a socket that hears all guests' DHCP."""

    async def remove_network(self, vni: int) -> None: ...

    async def observe_port(self, tap: str, port: Port | None) -> ObservedPort:
        """Return what is so of the tap of that name; None as `port`: it shall not be here."""

    async def put_reachable(self, port: Port) -> None: ...

    async def put_rules(self, port: Port) -> None:
        """Return when the port's rules are in force, by what the kernel says."""

    async def admit(self, port: Port) -> None: ...

    async def plug(self, port: Port) -> None: ...

    async def remove_tap(self, tap: str) -> None:
        """Take a tap off its bridge, and what lets it in: hook, rules. The tap stays, it is the hypervisor's."""

    async def remove_reachable(self, vni: int, address: str) -> None: ...

    def metadata_namespace(self, vni: int) -> str:
        """Return the path of the namespace in which the responder listens for one network."""
