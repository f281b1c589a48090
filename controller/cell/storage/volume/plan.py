"""Decides the next step that moves one volume towards its intent. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """What is so. `is_made`: a storage agent made it. `is_removed`: one confirmed that nothing of it is there."""

    is_leaving: bool = False
    is_made: bool = False
    is_removed: bool = False
    has_failed: bool = False
    is_pool_known: bool = False
    # Some host that does work on storage in its pool answers.
    has_agent: bool = False
    # It is cloned from an image that is not imported yet, or not known here.
    waits_for_image: bool = False
    # Servers that may have it open.
    held_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ensure:
    """Have it made, or found made."""


@dataclass(frozen=True)
class Remove:
    """Take its owner mark off and have it removed."""


@dataclass(frozen=True)
class Finish:
    """Record its end."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be done until something else happens, which wakes the volume again."""

    why: str
    what: tuple[str, ...] = ()


Step = Ensure | Remove | Finish | Wait


def plan(world: World) -> Step | None:
    """Return the next step, or None if the volume is what it shall be, or never will be."""
    if world.is_leaving:
        if world.is_removed:
            return Finish()
        if world.held_by:
            return Wait("IN_USE", world.held_by)
        return _ready_to_work(world) or Remove()
    if world.is_made or world.has_failed:
        return None
    if world.waits_for_image:
        return Wait("IMAGE_NOT_READY")
    return _ready_to_work(world) or Ensure()


def _ready_to_work(world: World) -> Wait | None:
    if not world.is_pool_known:
        return Wait("POOL_UNKNOWN")
    return None if world.has_agent else Wait("NO_STORAGE_AGENT")
