"""Volumes: disks that tenants ask for by themselves. The root volumes of servers are made with those (controller.region.compute)."""

from typing import Any

from controller.region.create import Creatable, Outcome
from controller.region.resolve import pool_or_default, require_room_for, require_verb, usable_image
from controller.region.standard import Region
from kumo.api.storage.v1 import volume_pb2
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.errors import FailedPrecondition
from kumo.pool_verbs import Verb
from kumo.rpc.identity import Context
from kumo.store.txn import Txn


class Volumes(Creatable[Volume]):
    def __init__(self, region: Region) -> None:
        super().__init__(region, region.tables.volumes, volume_pb2.DESCRIPTOR.services_by_name["Volumes"])

    async def CreateVolume(self, request: Any, _context: Context) -> Volume:
        async def fill(txn: Txn) -> Outcome[Volume]:
            volume, project_uid = await self.draft(request)
            await self._resolve(volume)
            return Outcome(self.created(txn, volume), project_uid, usage_of(volume))

        return await self.once(request, fill)

    async def _resolve(self, volume: Volume) -> None:
        plane, tables, spec = self.region.plane, self.region.tables, volume.spec
        if not spec.image:
            pool = await pool_or_default(plane, tables.pools, spec.pool, "volume.spec.pool")
            require_verb(pool, Verb.CREATE, "volume.spec.pool")
            spec.pool, spec.pool_uid = pool.name, pool.uid
            return
        image = await usable_image(plane, tables.images, spec.image, "volume.spec.image")
        require_room_for(image, spec.size_gib, "volume.spec.size_gib")
        spec.image_uid = image.uid
        require_same_pool(spec.pool, image.spec.pool, image.name, "volume.spec.pool")
        spec.pool, spec.pool_uid = image.spec.pool, image.spec.pool_uid
        require_verb(await tables.pools.get_by_uid(spec.pool_uid), Verb.CLONE, "volume.spec.image")


def usage_of(volume: Volume) -> dict[str, int]:
    return {"volumes": 1, "gib": volume.spec.size_gib}


def require_same_pool(pool: str, image_pool: str, image: str, field: str) -> None:
    """Raises FailedPrecondition if a clone is to lie elsewhere than its image: clones share what they have not changed."""
    if pool and pool != image_pool:
        raise FailedPrecondition(
            "IMAGE_IN_OTHER_POOL",
            f"{image} is in {image_pool}, not in {pool}",
            field=field,
            fix=f"leave the pool out, or name {image_pool}",
            pool=pool,
        )
