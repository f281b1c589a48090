"""Has storage agents write on volumes whose they are, and remembers what this leader had written so that it asks but once a term.

A mark of the same server under a lesser epoch is replaced; anybody else's is not, and says so.
"""

from controller.cell.cell import Cell
from controller.cell.compute.server.desired import pool_reference
from controller.cell.presence import host_of
from kumo.api.agent.v1.storage_pb2 import Owner, SetOwnerRequest
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.errors import FailedPrecondition, NotFound, Unavailable
from kumo.stamps import epoch_order
from kumo.store.record import serialized

_COMMAND_S = 20.0


class Owners:
    """Owner marks of volumes."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        # By the uid of the volume: the server's, and the whole mark as bytes.
        self._set: dict[str, tuple[str, bytes]] = {}

    def is_set(self, volume_uid: str, owner: Owner) -> bool:
        return self._set.get(volume_uid) == _kept(owner)

    async def set(self, volume_uid: str, owner: Owner) -> None:
        """Return once the volume is marked as `owner`'s. Raises FailedPrecondition OWNER_CHANGED if it is somebody else's."""
        try:
            await self._send(volume_uid, Owner(), owner)
        except FailedPrecondition as error:
            held = _held(error)
            if held is None or held.server_uid not in ("", owner.server_uid) or epoch_order(held.epoch) > epoch_order(owner.epoch):
                raise
            await self._send(volume_uid, held, owner)
        self._set[volume_uid] = _kept(owner)

    async def clear(self, volume_uid: str, server_uid: str) -> None:
        """Return once the volume is not `server_uid`'s; that it is gone, or another's, is as good."""
        self._set.pop(volume_uid, None)
        placement = host_of(self._cell, server_uid)
        believed = Owner(server_uid=server_uid, host=placement.host, epoch=placement.epoch) if placement is not None else Owner()
        try:
            await self._send(volume_uid, believed, Owner())
        except NotFound:
            return
        except FailedPrecondition as error:
            held = _held(error)
            if held is None or not server_uid:
                raise
            if held.server_uid == server_uid:
                await self._send(volume_uid, held, Owner())

    def forget(self, server_uid: str) -> None:
        for volume_uid in [uid for uid, (owner_uid, _mark) in self._set.items() if owner_uid == server_uid]:
            del self._set[volume_uid]

    async def _send(self, volume_uid: str, expected: Owner, owner: Owner) -> None:
        volume = self._cell.records.volumes.get(volume_uid)
        pool = self._cell.records.pools.get(volume.spec.pool_uid) if volume is not None else None
        if volume is None or pool is None:
            raise Unavailable("VOLUME_UNKNOWN", f"volume {volume_uid} or its pool is not known here", volume_uid=volume_uid)
        session = self._cell.agents.for_storage(volume_uid, pool)
        stamp = session.stamp(_epoch(owner, expected), volume.generation)
        request = SetOwnerRequest(stamp=stamp, uid=volume_uid, pool=pool_reference(pool), expected=expected, owner=owner)
        await session.storage.SetOwner(request, timeout=_COMMAND_S)


def _kept(owner: Owner) -> tuple[str, bytes]:
    return owner.server_uid, serialized(owner)


def _epoch(owner: Owner, expected: Owner) -> Epoch | None:
    if owner.HasField("epoch"):
        return owner.epoch
    return expected.epoch if expected.HasField("epoch") else None


def _held(error: FailedPrecondition) -> Owner | None:
    """Return whose the volume is as the refusal says it, or None for another refusal."""
    if error.reason != "OWNER_CHANGED":
        return None
    said = error.metadata
    epoch = Epoch(cell=int(said.get("held_epoch_cell", 0)), host=int(said.get("held_epoch_host", 0)))
    return Owner(server_uid=said.get("held_server_uid", ""), host=said.get("held_host", ""), epoch=epoch)
