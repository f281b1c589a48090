"""Decides the next step of one attachment. Pure. The disk itself is told with its server; what is left is to say so, and to end."""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """What is so. `is_held`: the server may have the disk open. `is_attached`: it runs, or is defined, with it."""

    is_leaving: bool = False
    is_held: bool = False
    is_attached: bool = False


@dataclass(frozen=True)
class Finish:
    """Record its end."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be done until something else happens, which wakes the attachment again."""

    why: str


Step = Finish | Wait


def plan(world: World) -> Step | None:
    """Return the next step, or None if the server has the disk."""
    if world.is_leaving:
        return Wait("IN_USE") if world.is_held else Finish()
    return None if world.is_attached else Wait("NOT_YET")
