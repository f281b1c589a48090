"""Makes one volume what it shall be: has a storage agent make it, or remove it once no server can have it open; writes its status."""

from controller.cell.cell import Cell
from controller.cell.compute.server.desired import pool_reference
from controller.cell.conditions import Said, conditions
from controller.cell.ends import finish
from controller.cell.events import WARNING, Happened
from controller.cell.owners import Owners
from controller.cell.presence import goes_withdrawn, is_leaving, server_is_off
from controller.cell.storage.volume.plan import Ensure, Finish, Remove, Step, Wait, World, plan
from kumo.api.agent.v1.storage_pb2 import DeleteVolumeRequest, EnsureVolumeRequest
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.errors import Error, FailedPrecondition, InvalidArgument, NotFound
from kumo.log import get_logger

log = get_logger(__name__)

_COMMAND_S = 60.0
_GIB = 1 << 30
_MADE = frozenset({Volume.AVAILABLE, Volume.IN_USE})
_MOST_STEPS = 8


class VolumeReconciler:
    """Called by the loop of volumes with a uid."""

    def __init__(self, cell: Cell, owners: Owners) -> None:
        self._cell, self._owners = cell, owners
        self._removed: set[str] = set()

    async def reconcile(self, uid: str) -> None:
        backend_name = ""
        failure: Error | None = None
        for _ in range(_MOST_STEPS):
            volume = self._cell.records.volumes.get(uid)
            if volume is None:
                self._removed.discard(uid)
                return
            step = plan(self._world(volume, is_made=bool(backend_name), has_failed=failure is not None))
            match step:
                case Ensure():
                    try:
                        backend_name = await self._ensure(volume)
                    except (FailedPrecondition, InvalidArgument) as error:
                        if error.reason == "STALE_COMMAND":
                            raise
                        failure = error
                    except Error as error:
                        await self._report(volume, Wait("TROUBLE"), "", error)
                        raise
                case Remove():
                    try:
                        await self._remove(volume)
                    except Error as error:
                        await self._report(volume, Wait("TROUBLE"), "", error)
                        raise
                case Finish():
                    await finish(self._cell, self._cell.records.volumes, uid, withdrawn=goes_withdrawn(self._cell, volume))
                    log.info("volume gone", volume=volume.name)
                case Wait() | None:
                    await self._report(volume, step, backend_name, failure)
                    return
        raise RuntimeError(f"the plan of volume {uid} does not come to rest")

    async def _ensure(self, volume: Volume) -> str:
        """Return what the backend calls it."""
        pool = self._pool(volume)
        session = self._cell.agents.for_storage(volume.uid, pool)
        request = EnsureVolumeRequest(
            stamp=session.stamp(self._epoch(volume), volume.generation),
            uid=volume.uid,
            pool=pool_reference(pool),
            size_bytes=volume.spec.size_gib * _GIB,
            image_uid=volume.spec.image_uid,
        )
        facts = (await session.storage.EnsureVolume(request, timeout=_COMMAND_S)).facts
        log.info("volume made", volume=volume.name, backend_name=facts.backend_name)
        return facts.backend_name or volume.uid

    async def _remove(self, volume: Volume) -> None:
        await self._owners.clear(volume.uid, volume.owner_uid)
        pool = self._pool(volume)
        session = self._cell.agents.for_storage(volume.uid, pool)
        stamp = session.stamp(self._epoch(volume), volume.generation)
        request = DeleteVolumeRequest(stamp=stamp, uid=volume.uid, pool=pool_reference(pool))
        await session.storage.DeleteVolume(request, timeout=_COMMAND_S)
        self._removed.add(volume.uid)

    def _world(self, volume: Volume, *, is_made: bool, has_failed: bool) -> World:
        image = self._cell.records.images.get(volume.spec.image_uid) if volume.spec.image_uid else None
        pool = self._cell.records.pools.get(volume.spec.pool_uid)
        return World(
            is_leaving=is_leaving(self._cell, volume),
            is_made=is_made or volume.status.state in _MADE,
            is_removed=volume.uid in self._removed,
            has_failed=has_failed or (volume.status.state == Volume.FAILED and volume.status.observed_generation == volume.generation),
            is_pool_known=pool is not None,
            has_agent=pool is not None and self._cell.agents.has_storage(pool),
            waits_for_image=bool(volume.spec.image_uid) and (image is None or image.status.state != Image.ACTIVE),
            held_by=self._held_by(volume),
        )

    def _held_by(self, volume: Volume) -> tuple[str, ...]:
        """Return the servers that it is attached to, or was made for, and that may run."""
        attached = self._cell.records.attachments.find("volume", volume.uid)
        servers = {one.spec.server_uid: one.spec.server for one in attached}
        if volume.owner_uid:
            servers[volume.owner_uid] = volume.owner
        return tuple(sorted(name for uid, name in servers.items() if not server_is_off(self._cell, uid)))

    def _pool(self, volume: Volume) -> Pool:
        pool = self._cell.records.pools.get(volume.spec.pool_uid)
        if pool is None:
            raise NotFound("POOL_UNKNOWN", f"the pool of {volume.name} is not known here", pool_uid=volume.spec.pool_uid)
        return pool

    def _epoch(self, volume: Volume) -> Epoch | None:
        order = self._cell.records.orders.get(volume.uid)
        return order.stamp.epoch if order is not None and order.stamp.HasField("epoch") else None

    async def _report(self, volume: Volume, step: Step | None, backend_name: str, failure: Error | None) -> None:
        before = volume.status
        part = Volume(uid=volume.uid)
        after = part.status
        attached = [one for one in self._cell.records.attachments.find("volume", volume.uid) if not is_leaving(self._cell, one)]
        after.server = attached[0].spec.server if attached else ""
        after.backend_name = backend_name or before.backend_name
        after.observed_generation = volume.generation
        said = _said(step, failure)
        if isinstance(step, Wait) and is_leaving(self._cell, volume):
            after.state = Volume.DELETING
        elif failure is not None and not isinstance(step, Wait):
            after.state = Volume.FAILED
        elif before.state == Volume.FAILED and step is None and not backend_name:
            return  # it failed under this very generation, and the reason is there already
        elif isinstance(step, Wait):
            after.state = Volume.CREATING
        else:
            after.state = Volume.IN_USE if attached else Volume.AVAILABLE
        now = self._cell.now()
        after.conditions.extend(conditions(before.conditions, [said], volume.generation, now))
        told: list[Happened] = []
        if after.state == Volume.FAILED and before.state != Volume.FAILED:
            told.append(Happened("FAILED", said.message, WARNING, said.fix))
        elif before.state not in _MADE and after.state in _MADE:
            told.append(Happened("MADE", "the volume is there", operator_message=f"the volume is there as {after.backend_name}"))
        await self._cell.reporter.report(self._cell.records.volumes, part, told, now)


def _said(step: Step | None, failure: Error | None) -> Said:
    if failure is not None:
        return Said("Ready", False, failure.reason, failure.message, failure.fix)
    match step:
        case Wait("IN_USE", what):
            return Said("Ready", False, "IN_USE", f"it goes when it is let go of by {', '.join(what)}")
        case Wait("POOL_UNKNOWN"):
            return Said("Ready", False, "POOL_UNKNOWN", "its pool is not known in this cell yet")
        case Wait("NO_STORAGE_AGENT"):
            return Said("Ready", False, "NO_STORAGE_AGENT", "nothing that does work on storage answers", "wait: it goes on by itself")
        case Wait("IMAGE_NOT_READY"):
            fix = "upload the image, or wait for its import"
            return Said("Ready", False, "IMAGE_NOT_READY", "the image it is cloned from is not ready", fix)
        case _:
            return Said("Ready", True, "READY", "the volume is there")
