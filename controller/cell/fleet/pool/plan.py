"""Decides the next step of one pool. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """What is so. `used_by`: volumes and images that lie in it."""

    is_leaving: bool = False
    used_by: tuple[str, ...] = ()
    is_described: bool = False


@dataclass(frozen=True)
class Describe:
    """Ask a storage agent how full it is."""


@dataclass(frozen=True)
class Finish:
    """Record its end."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be done until something else happens, which wakes the pool again."""

    why: str
    what: tuple[str, ...] = ()


Step = Describe | Finish | Wait


def plan(world: World) -> Step | None:
    """Return the next step, or None if all is known for now."""
    if world.is_leaving:
        return Wait("IN_USE", world.used_by) if world.used_by else Finish()
    return None if world.is_described else Describe()
