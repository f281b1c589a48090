"""Decides the next step that moves one server towards its intent. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Disk:
    """A volume of the server. `is_marked`: it bears the owner mark of the present placement."""

    volume_uid: str
    is_ready: bool
    is_marked: bool


@dataclass(frozen=True)
class World:
    """What is so. `was_told`: the agent took exactly what the server shall be now, or that it shall go, on the present connection."""

    is_leaving: bool = False
    is_placed: bool = False
    is_host_ready: bool = False
    was_told: bool = False
    # The agent says that nothing of it is on the host.
    is_absent: bool = False
    # Ports and volumes that the server names and the cell was not told of yet.
    missing: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()
    # Hosts that have something of it and are not its own.
    strays: tuple[str, ...] = ()
    # Of a leaving server: what was made for it, or is bound for it, and is not gone yet.
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Choose a host and book it."""


@dataclass(frozen=True)
class Mark:
    """Write on these volumes whose they are, all at once."""

    volume_uids: tuple[str, ...]


@dataclass(frozen=True)
class Tell:
    """Tell the agent of its host what it shall be."""


@dataclass(frozen=True)
class Remove:
    """Tell the agent of its host that it shall go."""


@dataclass(frozen=True)
class RemoveStray:
    """Tell the agent of another host that it shall go."""

    host_uid: str


@dataclass(frozen=True)
class Finish:
    """Free its room and record its end."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be done until something else happens, which wakes the server again."""

    why: str
    what: tuple[str, ...] = ()


Step = Place | Mark | Tell | Remove | RemoveStray | Finish | Wait


def plan(world: World) -> Step | None:
    """Return the next step, or None if the host was told all and nothing is left to do."""
    if world.strays:
        return RemoveStray(world.strays[0])
    if world.is_leaving:
        return _leave(world)
    if not world.is_placed:
        return Place()
    if world.missing:
        return Wait("PARTS_MISSING", world.missing)
    unready = tuple(disk.volume_uid for disk in world.disks if not disk.is_ready)
    if unready:
        return Wait("DISK_NOT_READY", unready)
    if not world.is_host_ready:
        return Wait("HOST_SILENT")
    unmarked = tuple(disk.volume_uid for disk in world.disks if not disk.is_marked)
    if unmarked:
        return Mark(unmarked)
    return None if world.was_told else Tell()


def _leave(world: World) -> Step:
    if world.is_placed:
        if not world.is_host_ready:
            return Wait("HOST_SILENT")
        if not world.was_told:
            return Remove()
        if not world.is_absent:
            return Wait("REMOVING")
    return Wait("PARTS_LEFT", world.left) if world.left else Finish()
