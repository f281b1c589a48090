"""Decides the next step that moves one network towards its intent on the hosts of a cell. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """What is so, by uid of host. `wanted` have a port of it; `carrying` are those it was made on, as recorded before it was."""

    is_leaving: bool = False
    wanted: frozenset[str] = frozenset()
    carrying: frozenset[str] = frozenset()
    # Told all that it shall be there, on the present connection.
    told: frozenset[str] = frozenset()
    # Agents that answer.
    ready: frozenset[str] = frozenset()
    # Hosts on which something of a port of it is left.
    with_ports: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Record:
    """Write down that these hosts carry it, before any of them does."""

    host_uids: frozenset[str]


@dataclass(frozen=True)
class Tell:
    """Tell the agents of these hosts what it shall be."""

    host_uids: frozenset[str]


@dataclass(frozen=True)
class Remove:
    """Tell the agents of these hosts that it shall go, and write down that they carry it no more."""

    host_uids: frozenset[str]


@dataclass(frozen=True)
class Finish:
    """Record its end."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be done until something else happens, which wakes the network again."""

    why: str
    host_uids: frozenset[str] = frozenset()


Step = Record | Tell | Remove | Finish | Wait


def plan(world: World) -> Step | None:
    """Return the next step, or None if each host has it as it shall be."""
    if world.wanted - world.carrying:
        return Record(world.wanted | world.carrying)
    untold = (world.wanted & world.ready) - world.told
    if untold:
        return Tell(untold)
    unwanted = world.carrying - world.wanted - world.with_ports
    if unwanted & world.ready:
        return Remove(unwanted & world.ready)
    if world.is_leaving:
        return Wait("IN_USE", world.carrying) if world.carrying else Finish()
    silent = (world.carrying & world.wanted) - world.ready
    return Wait("HOST_SILENT", silent) if silent else None
