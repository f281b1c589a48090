"""Decides the next step for one network or one port of a host: what it shall be + what is so → one step, or none. Touches nothing.

A guest's frames are let through before its tap may come, and the tap is taken away before its rules go: at no moment is there a
tap that nothing guards.
"""

from dataclasses import dataclass, field
from enum import Enum

from agent.network import names


@dataclass(frozen=True)
class Remote:
    """A port on another host."""

    mac: str
    addresses: tuple[str, ...]
    tunnel_address: str


@dataclass(frozen=True)
class Entry:
    """One permanent entry that replaces learning: behind the tunnel (FDB), at a tunnel endpoint (FAR), or an answer to ARP (ARP)."""

    kind: str
    mac: str
    value: str = ""


FDB, FAR, ARP = "fdb", "far", "arp"


@dataclass(frozen=True)
class Network:
    """What a network shall be."""

    uid: str
    vni: int
    mtu: int
    cidrs: tuple[str, ...]
    remotes: frozenset[Remote] = frozenset()

    def entries(self) -> frozenset[Entry]:
        found: set[Entry] = set()
        for remote in self.remotes:
            found |= {Entry(FDB, remote.mac), Entry(FAR, remote.mac, remote.tunnel_address)}
            found |= {Entry(ARP, remote.mac, address) for address in remote.addresses}
        return frozenset(found)

    def tunnel_addresses(self) -> frozenset[str]:
        return frozenset(remote.tunnel_address for remote in self.remotes)


@dataclass(frozen=True)
class ObservedNetwork:
    """What is so of a network; a piece counts only when it is exactly as it shall be."""

    bridge: bool = False
    tunnel: bool = False
    metadata: bool = False
    entries: frozenset[Entry] = frozenset()
    tunnels_admitted: bool = False
    recorded: bool = False  # a responder that starts now would find it
    served: bool = False  # the responder that runs listens there; unknown counts as served
    anything: bool = False  # some piece is there, right or wrong


@dataclass(frozen=True)
class AdmitTunnels:
    """Let frames in from the hosts that the network's other ports are on."""


@dataclass(frozen=True)
class MakeBridge:
    pass


@dataclass(frozen=True)
class MakeTunnel:
    pass


@dataclass(frozen=True)
class MakeMetadata:
    """Make the small namespace that holds 169.254.169.254 for this network."""


@dataclass(frozen=True)
class ChangeEntries:
    added: frozenset[Entry]
    removed: frozenset[Entry]


@dataclass(frozen=True)
class Record:
    """Write down for the responder that the network is here."""


@dataclass(frozen=True)
class Serve:
    """Hand the responder a socket that listens in the network."""


@dataclass(frozen=True)
class RemoveNetwork:
    pass


NetworkStep = AdmitTunnels | MakeBridge | MakeTunnel | MakeMetadata | ChangeEntries | Record | Serve | RemoveNetwork


def plan_network(desired: Network | None, observed: ObservedNetwork) -> NetworkStep | None:
    """Return the one step that moves a network towards `desired`, or None if it is so. None as `desired`: it shall not be here."""
    if desired is None:
        return RemoveNetwork() if observed.anything else None
    if not observed.recorded:
        return Record()  # first: what was recorded is found again when it shall go
    if not observed.bridge:
        return MakeBridge()
    if not observed.metadata:
        return MakeMetadata()
    if not observed.tunnels_admitted:
        return AdmitTunnels()
    if not observed.tunnel:
        return MakeTunnel()
    wanted = desired.entries()
    if wanted != observed.entries:
        return ChangeEntries(wanted - observed.entries, observed.entries - wanted)
    return None if observed.served else Serve()


@dataclass(frozen=True)
class Port:
    """What a port shall be. `gateway` may be empty."""

    uid: str
    network_uid: str
    vni: int
    mtu: int
    mac: str
    address: str
    prefix_length: int
    server_uid: str
    gateway: str = ""
    dns_servers: tuple[str, ...] = ()
    hostname: str = ""
    tap: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tap", names.tap(self.uid))


class Tap(Enum):
    """Where the tap of a port is. It is the hypervisor's: it comes and goes by itself, and is never deleted here."""

    ABSENT = "absent"
    LOOSE = "loose"  # in the data plane, but not on its bridge as it should be
    PLUGGED = "plugged"


class Answer(Enum):
    """What the responder would tell the guest."""

    NOTHING = "nothing"
    OTHER = "other"
    RIGHT = "right"


@dataclass(frozen=True)
class ObservedPort:
    """What is so of a port."""

    network_ready: bool = False
    answer: Answer = Answer.NOTHING
    reachable: bool = False  # the metadata namespace knows its address
    rules: bool = False
    admitted: bool = False  # libvirt's hook would plug its tap in
    tap: Tap = Tap.ABSENT
    anything: bool = False  # some piece other than the tap is there

    @property
    def bound(self) -> bool:
        return self.network_ready and self.answer is Answer.RIGHT and self.reachable and self.rules and self.admitted


@dataclass(frozen=True)
class AwaitNetwork:
    """The network is not here yet; it wakes its ports when it is."""


@dataclass(frozen=True)
class PutAnswer:
    pass


@dataclass(frozen=True)
class PutReachable:
    pass


@dataclass(frozen=True)
class PutRules:
    pass


@dataclass(frozen=True)
class Admit:
    """Let libvirt's hook plug the tap in when it comes."""


@dataclass(frozen=True)
class Plug:
    pass


@dataclass(frozen=True)
class RemovePort:
    """Take all of it away: the tap off its bridge first."""


PortStep = AwaitNetwork | PutAnswer | PutReachable | PutRules | Admit | Plug | RemovePort


def plan_port(desired: Port | None, observed: ObservedPort) -> PortStep | None:
    """Return the one step that moves a port towards `desired`, or None if it is so. None as `desired`: it shall not be here."""
    if desired is None:
        return RemovePort() if observed.anything or observed.tap is Tap.PLUGGED else None
    if observed.answer is Answer.OTHER:
        return RemovePort()  # what was told is no longer so: begin anew, or traces of the old address stay
    if not observed.network_ready:
        return AwaitNetwork()
    if observed.answer is Answer.NOTHING:
        return PutAnswer()
    if not observed.reachable:
        return PutReachable()
    if not observed.rules:
        return PutRules()
    if not observed.admitted:
        return Admit()
    return Plug() if observed.tap is Tap.LOOSE else None
