"""Locks of volumes: who holds one, and breaking a dead client's without a blocklist. Whether it is dead is for the caller to prove."""

from typing import Any

import rbd

from kumo.errors import FailedPrecondition
from kumo.log import get_logger
from storage.block.names import volume_name

log = get_logger(__name__)


def lock_owners(volumes: Any, uid: str) -> list[str]:
    """Return the addresses (ip:port/nonce) of who holds the lock of a volume; none if it is free or gone."""
    try:
        with rbd.Image(volumes, volume_name(uid), read_only=True) as image:
            return sorted(_lockers(image))
    except rbd.ImageNotFound:
        return []


def clients_of(volumes: Any, uid: str) -> list[str]:
    """Return the addresses of all who have a volume open for writing or hold its lock; none if it is gone."""
    try:
        with rbd.Image(volumes, volume_name(uid), read_only=True) as image:
            return sorted(_lockers(image) | {str(watcher["addr"]) for watcher in image.watchers_list()})
    except rbd.ImageNotFound:
        return []


def _lockers(image: Any) -> set[str]:
    # Not lock_get_owners(): it wants the image open for writing, and so a watch of our own on it.
    lockers = image.list_lockers()
    return {str(address) for _, _, address in lockers["lockers"]} if lockers else set()


def break_locks(volumes: Any, uid: str, addresses: frozenset[str]) -> list[str]:
    """Break the locks that clients at `addresses` hold, and return whose were broken.

    Raises FailedPrecondition LOCK_FOREIGN, breaking none, if somebody else holds one.
    """
    broken: list[str] = []
    try:
        with rbd.Image(volumes, volume_name(uid)) as image:
            owners = [str(owner["owner"]) for owner in image.lock_get_owners()]
            if foreign := [owner for owner in owners if owner not in addresses]:
                raise FailedPrecondition(
                    "LOCK_FOREIGN",
                    f"volume {uid} is locked by {', '.join(foreign)}, which is no client of this host's",
                    fix="the cell's fencer breaks it",
                    uid=uid,
                    owners=",".join(foreign),
                )
            for owner in owners:
                image.lock_break(rbd.RBD_LOCK_MODE_EXCLUSIVE, owner)
                log.info("lock of a dead client broken", volume=uid, client=owner)
                broken.append(owner)
    except rbd.ImageNotFound:
        pass
    return broken
