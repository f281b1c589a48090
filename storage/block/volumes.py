"""Volumes in RBD: made blank or as clones of images, found, listed, moved to the trash and purged from there.

Everything here blocks and runs on a thread of `storage.rados.Cluster`. Whose disk a volume is stands in `mark`.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import rbd

from kumo.errors import FailedPrecondition, NotFound, Unavailable
from kumo.log import get_logger
from storage.block.names import SNAPSHOT, volume_name, volume_uid
from storage.volume import Volume, no_image, too_small

log = get_logger(__name__)

_UID = "kumo.uid"
_GENERATION = "kumo.generation"

# Said for clones as well: they would take over what their image has, which nobody writes to and has no lock.
_FEATURES = (
    rbd.RBD_FEATURE_LAYERING
    | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
    | rbd.RBD_FEATURE_OBJECT_MAP
    | rbd.RBD_FEATURE_FAST_DIFF
    | rbd.RBD_FEATURE_DEEP_FLATTEN
)


@dataclass(frozen=True)
class Wanted:
    """A volume as it shall be made. `image_uid` empty: blank."""

    uid: str
    size_bytes: int
    generation: int
    image_uid: str = ""


def ensure_volume(volumes: Any, images: Any, wanted: Wanted) -> Volume:
    """Make a volume, finish one that was half made, or find it made.

    Raises NotFound without the image, FailedPrecondition if the image is larger than the volume.
    """
    name = volume_name(wanted.uid)
    try:
        # Made before it is looked for: it hardly ever is there, and looking would cost each server the time.
        _make(volumes, images, wanted)
    except (rbd.ImageExists, NotFound):
        found = find_volume(volumes, wanted.uid)
        if found is None:
            raise
        if found.generation:
            return found
    with rbd.Image(volumes, name) as image:
        # A clone begins as large as its image. Asking the image before would cost opening it, each time.
        size_bytes = image.size()
        if size_bytes <= wanted.size_bytes:
            if size_bytes < wanted.size_bytes:
                image.resize(wanted.size_bytes)
            image.metadata_set(_UID, wanted.uid)
            # Last: it is what says that the volume is made.
            image.metadata_set(_GENERATION, str(max(1, wanted.generation)))
            return Volume(wanted.uid, wanted.size_bytes, max(1, wanted.generation))
    move_to_trash(volumes, name)
    raise too_small(wanted.uid, wanted.size_bytes, wanted.image_uid, size_bytes)


def _make(volumes: Any, images: Any, wanted: Wanted) -> None:
    name = volume_name(wanted.uid)
    if not wanted.image_uid:
        rbd.RBD().create(volumes, name, wanted.size_bytes, old_format=False, features=_FEATURES)
        return
    try:
        rbd.RBD().clone(images, wanted.image_uid, SNAPSHOT, volumes, name, features=_FEATURES)
    except rbd.ImageNotFound as error:
        raise no_image(wanted.image_uid) from error


def find_volume(volumes: Any, uid: str) -> Volume | None:
    try:
        with rbd.Image(volumes, volume_name(uid), read_only=True) as image:
            return Volume(uid, image.size(), _generation(image))
    except rbd.ImageNotFound:
        return None


def _generation(image: Any) -> int:
    try:
        return int(image.metadata_get(_GENERATION))
    except KeyError:
        return 0


def list_volumes(volumes: Any) -> list[Volume]:
    """Return Kumo's volumes in this pool, half made ones among them, by uid."""
    uids = sorted(uid for name in rbd.RBD().list(volumes) if (uid := volume_uid(name)) is not None)
    return [volume for uid in uids if (volume := find_volume(volumes, uid)) is not None]


def delete_volume(volumes: Any, uid: str) -> None:
    """Move a volume to the trash, or find it gone. Raises FailedPrecondition VOLUME_IN_USE while a client has it open."""
    name = volume_name(uid)
    try:
        clients = watchers_of(volumes, name)
    except rbd.ImageNotFound:
        clients = []
    if clients:
        raise FailedPrecondition(
            "VOLUME_IN_USE",
            f"volume {uid} is open by {', '.join(clients)}",
            fix="stop what uses it; a client that died is forgotten after 30 s",
            uid=uid,
            clients=",".join(clients),
        )
    move_to_trash(volumes, name)


def watchers_of(io: Any, name: str) -> list[str]:
    """Return the addresses (ip:port/nonce) of the clients that have an image open for writing. Raises rbd.ImageNotFound."""
    with rbd.Image(io, name, read_only=True) as image:
        return sorted({str(watcher["addr"]) for watcher in image.watchers_list()})


def move_to_trash(io: Any, name: str) -> None:
    """Hide an image, or find it gone. Not found is not believed: on a full cluster librbd says so of images that are there."""
    with suppress(rbd.ImageNotFound):
        rbd.RBD().trash_move(io, name, 0)
    if name in rbd.RBD().list(io):
        raise Unavailable(
            "NOT_DELETED", f"{name} is still listed after it was moved to the trash", fix="see whether the cluster is full", image=name
        )


def has_trash(io: Any) -> bool:
    return any(True for _ in rbd.RBD().trash_list(io))


def purge_trash(io: Any) -> int:
    """Free what is in the trash and has neither clones nor clients any more, and return how many were freed."""
    freed = 0
    for entry in list(rbd.RBD().trash_list(io)):
        name = entry["name"]
        try:
            with rbd.Image(io, image_id=entry["id"]) as image:
                for snapshot in list(image.list_snaps()):
                    if snapshot["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_USER:
                        image.remove_snap(snapshot["name"])
            rbd.RBD().trash_remove(io, entry["id"], True)
            freed += 1
            log.info("image purged", image=name)
        except rbd.ImageNotFound:
            pass  # another agent was faster
        except (rbd.ImageHasSnapshots, rbd.ImageBusy):
            log.debug("image stays in the trash", image=name)
    return freed
