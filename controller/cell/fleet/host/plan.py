"""Decides what state a host is in, when to look again, whether its agent can do what this version asks, and whether its links fit. Pure."""

from dataclasses import dataclass
from ipaddress import ip_address

from kumo.api.agent.v1.agent_pb2 import HostFacts
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.capabilities import capabilities

# What IPv6 takes of each packet beyond what IPv4 takes.
_IPV6_BYTES = 20

# A host whose agent is away for as long as a restart of it may take is not down yet.
GRACE_S = 10.0


@dataclass(frozen=True)
class World:
    """What is so. `silent_s` is how long the agent has not answered, 0 while it does."""

    before: Host.State.ValueType
    is_ready: bool = False
    silent_s: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The state, and in how many seconds it may change by time alone."""

    state: Host.State.ValueType
    look_again_s: float | None = None


def judge(world: World) -> Verdict:
    """A host that was never heard is joining; one that was is down only after the grace."""
    if world.is_ready:
        return Verdict(Host.UP)
    if world.before in (Host.STATE_UNSPECIFIED, Host.JOINING):
        return Verdict(Host.JOINING)
    if world.before == Host.DOWN or world.silent_s >= GRACE_S:
        return Verdict(Host.DOWN)
    return Verdict(world.before, GRACE_S - world.silent_s)


def lacking(facts: HostFacts) -> list[str]:
    """Return what this version asks of an agent with those roles and this one cannot do: it is older. A newer one can do more."""
    return sorted(set(capabilities(facts.roles)) - set(facts.capabilities))


@dataclass(frozen=True)
class Misfit:
    """What of a host's planes is not as its record has it."""

    reason: str
    message: str
    fix: str


def misfits(spec: Host.Spec, facts: HostFacts, underlay_mtu: int) -> list[Misfit]:
    """Return how the host's addresses and links differ from its record. `underlay_mtu` counts as IPv4 does. An agent may not say."""
    if not facts.addresses:
        return []
    there = {one.address: one for one in facts.addresses}
    planes = {"tunnel": spec.tunnel_address, "storage": spec.storage_address, "migration": spec.migration_address}
    found = [_missing(plane, address, facts) for plane, address in planes.items() if address and _spelt(address) not in there]
    tunnel = _spelt(spec.tunnel_address)
    if facts.tunnel_address and _spelt(facts.tunnel_address) != tunnel:
        message = f"its tunnels leave from {facts.tunnel_address}, and other hosts send to {spec.tunnel_address}"
        found.append(Misfit("TUNNEL_ADDRESS_DIFFERS", message, "have its record and network.tunnel_address of its agent say the same"))
    needed = underlay_mtu + (_IPV6_BYTES if ":" in tunnel else 0)
    if tunnel in there and there[tunnel].mtu < needed:
        link = there[tunnel]
        message = f"tunnels of this cell need {needed} bytes, and {link.link} with {spec.tunnel_address} carries {link.mtu}"
        fix = f"ip link set {link.link} mtu {needed} on that host, also for after a boot; or a smaller cell_plane.underlay_mtu"
        found.append(Misfit("PLANE_MTU_SMALL", message, fix))
    return found


def _missing(plane: str, address: str, facts: HostFacts) -> Misfit:
    others = ", ".join(f"{one.address} on {one.link}" for one in facts.addresses if not ip_address(one.address).is_loopback)
    message = f"it does not have {address}, its address on the {plane} plane; it has {others or 'loopback addresses alone'}"
    return Misfit("PLANE_ADDRESS_MISSING", message, f"give {address} to a link of that host, or make its record anew with another one")


def _spelt(address: str) -> str:
    """Return an address as agents spell it."""
    return str(ip_address(address))
