"""Decides the next step that moves one port towards its intent. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """What is so. `host_uid` is where its server is placed, empty for nowhere; `has_parts`: its network and subnet are known."""

    is_leaving: bool = False
    host_uid: str = ""
    is_host_ready: bool = False
    has_parts: bool = False
    was_told: bool = False
    is_bound: bool = False
    # Its server may still run on a host: the port has to stay in force until it does not.
    server_may_run: bool = False
    # Hosts that have something of it and shall not.
    strays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tell:
    """Tell the agent of its host what it shall be."""


@dataclass(frozen=True)
class Remove:
    """Tell the agent of that host that it shall go."""

    host_uid: str


@dataclass(frozen=True)
class Finish:
    """Record its end."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be done until something else happens, which wakes the port again."""

    why: str


Step = Tell | Remove | Finish | Wait


def plan(world: World) -> Step | None:
    """Return the next step, or None if the port is as it shall be."""
    if world.strays and not world.server_may_run:
        return Remove(world.strays[0])
    if world.is_leaving:
        return Wait("IN_USE") if world.server_may_run else Finish()
    if not world.host_uid:
        return None
    if world.strays:
        return Remove(world.strays[0])
    if not world.has_parts:
        return Wait("PARTS_MISSING")
    if not world.is_host_ready:
        return Wait("HOST_SILENT")
    if not world.was_told:
        return Tell()
    return None if world.is_bound else Wait("BINDING")
