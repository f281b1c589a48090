"""Decides what state a host is in, when to look again, and whether its agent can do what this version asks. Pure."""

from dataclasses import dataclass

from kumo.api.agent.v1.agent_pb2 import HostFacts
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.capabilities import capabilities

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
