"""Decides the next step that moves one image towards being usable, or away. Pure."""

from dataclasses import dataclass

from kumo.api.agent.v1.storage_pb2 import ImageFacts


@dataclass(frozen=True)
class World:
    """What is so. `facts` are None until a storage agent was asked; `is_settled`: it is usable, or refused, and recorded so."""

    size_bytes: int
    is_leaving: bool = False
    is_pool_known: bool = False
    is_settled: bool = False
    # Some host has taken bytes of it, or was asked to.
    is_staged: bool = False
    is_removed: bool = False
    facts: ImageFacts | None = None


@dataclass(frozen=True)
class Look:
    """Ask the host that has its bytes how far it is."""


@dataclass(frozen=True)
class Import:
    """Have its bytes checked, converted and imported."""


@dataclass(frozen=True)
class Remove:
    """Have it removed, with what is staged of it."""


@dataclass(frozen=True)
class Finish:
    """Record its end."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be done until something else happens. An import tells nobody of its end: it is asked again."""

    why: str


Step = Look | Import | Remove | Finish | Wait


def plan(world: World) -> Step | None:
    """Return the next step, or None if the image is usable, or refused for good."""
    if world.is_leaving:
        if world.is_removed:
            return Finish()
        return Remove() if world.is_pool_known else Wait("POOL_UNKNOWN")
    if world.is_settled:
        return None
    if not world.is_pool_known:
        return Wait("POOL_UNKNOWN")
    if not world.is_staged:
        return Wait("NO_BYTES")
    if world.facts is None:
        return Look()
    match world.facts.stage:
        case ImageFacts.IMPORTED | ImageFacts.REFUSED:
            return None
        case ImageFacts.IMPORTING:
            return Wait("IMPORTING")
        case ImageFacts.STAGED if world.facts.received_bytes >= world.size_bytes:
            return Import()
        case _:
            return Wait("BYTES_MISSING")
