"""Says of one pool whether storage agents reach it, how full it is and what it can be asked for; ends it when nothing lies in it."""

from controller.cell.cell import Cell
from controller.cell.compute.server.desired import pool_reference
from controller.cell.conditions import Said, conditions
from controller.cell.ends import finish
from controller.cell.fleet.pool.plan import Describe, Finish, Wait, World, plan
from controller.cell.presence import is_withdrawn
from kumo.api.agent.v1.storage_pb2 import DescribePoolRequest, DescribePoolResponse
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.errors import Error

_EVERY_S = 60.0
_UNREACHED_S = 5.0
_COMMAND_S = 20.0
# What is used moves all the time: a change smaller than this share of the pool is not worth a write.
_LEAST_CHANGE = 0.005


class PoolReconciler:
    """Called by the loop of pools with a uid."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    async def reconcile(self, uid: str) -> float | None:
        pool = self._cell.records.pools.get(uid)
        if pool is None:
            return None
        leaving = pool.HasField("delete_time") or is_withdrawn(self._cell, uid)
        match plan(World(leaving, self._used_by(uid) if leaving else ())):
            case Finish():
                await finish(self._cell, self._cell.records.pools, uid, withdrawn=not pool.HasField("delete_time"))
                return None
            case Wait(_, what):
                await self._report(pool, Pool.DELETING, Said("Ready", True, "IN_USE", f"still in it: {', '.join(what)}"), None)
                return None
            case Describe() | None:
                return await self._describe(pool)

    async def _describe(self, pool: Pool) -> float:
        try:
            session = self._cell.agents.for_storage(pool.uid, pool)
            found = await session.storage.DescribePool(DescribePoolRequest(pool=pool_reference(pool)), timeout=_COMMAND_S)
        except Error as error:
            await self._report(pool, Pool.UNAVAILABLE, Said("Ready", False, error.reason, error.message, error.fix), None)
            return _UNREACHED_S
        await self._report(pool, Pool.ACTIVE, Said("Ready", True, "READY", "it answers"), found)
        return _EVERY_S

    def _used_by(self, uid: str) -> tuple[str, ...]:
        records = self._cell.records
        volumes = [volume.name for volume in records.volumes.find("pool", uid)]
        return tuple(sorted([*volumes, *(image.name for image in records.images.find("pool", uid))]))

    async def _report(self, pool: Pool, state: Pool.State.ValueType, said: Said, found: DescribePoolResponse | None) -> None:
        before = pool.status
        part = Pool(uid=pool.uid)
        after = part.status
        after.state, after.observed_generation = state, pool.generation
        after.capacity_bytes, after.used_bytes = before.capacity_bytes, before.used_bytes
        after.verbs.extend(found.verbs if found is not None else before.verbs)
        if found is not None:
            moved = abs(found.used_bytes - before.used_bytes) > _LEAST_CHANGE * max(1, found.capacity_bytes)
            if moved or found.capacity_bytes != before.capacity_bytes or not before.state:
                after.capacity_bytes, after.used_bytes = found.capacity_bytes, found.used_bytes
        now = self._cell.now()
        after.conditions.extend(conditions(before.conditions, [said], pool.generation, now))
        await self._cell.reporter.report(self._cell.records.pools, part, (), now)
