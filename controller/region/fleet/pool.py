"""Pools: where volumes and images lie. The cells that reach one are told of it."""

from typing import Any

from controller.region.create import Creatable, Outcome
from controller.region.resolve import require_verb, resolve, verb_missing
from controller.region.standard import Region
from kumo.api.fleet.v1 import pool_pb2
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.errors import FailedPrecondition, InvalidArgument
from kumo.pool_verbs import Verb
from kumo.rpc.identity import Context
from kumo.store.txn import Txn

# There is at most one default because this key is.
_DEFAULT_KEY = "default-pool"


class Pools(Creatable[Pool]):
    changeable = ("labels", "spec.cells", "spec.default")

    def __init__(self, region: Region) -> None:
        super().__init__(region, region.tables.pools, pool_pb2.DESCRIPTOR.services_by_name["Pools"])

    async def CreatePool(self, request: Any, _context: Context) -> Pool:
        async def fill(txn: Txn) -> Outcome[Pool]:
            pool, _ = await self.draft(request)
            _require_ceph_pools(pool)
            await self._settle_reach(pool)
            if pool.spec.default:
                _take_default(txn, pool)
            return Outcome(self.created(txn, pool))

        return await self.once(request, fill)

    async def _settle_reach(self, pool: Pool) -> None:
        """Look up the hosts that the pool names; a directory is one host's, and so one cell's."""
        hosts = [await resolve(self.region.plane, self.region.tables.hosts, f"hosts/{one}", "pool.spec.hosts") for one in pool.spec.hosts]
        if pool.spec.driver != Pool.FILE:
            return
        if not hosts:
            raise InvalidArgument(
                "HOST_MISSING", "a pool of driver FILE needs the host that has the directory", field="pool.spec.hosts", fix="name one host"
            )
        cell = hosts[0].spec.cell
        if len(hosts) > 1:
            raise verb_missing(pool, Verb.SHARE, "pool.spec.hosts")
        if pool.spec.cells and list(pool.spec.cells) != [cell]:
            raise verb_missing(pool, Verb.SHARE, "pool.spec.cells")
        pool.spec.cells[:] = [cell]

    async def before_update(self, txn: Txn, old: Pool, new: Pool) -> None:
        """Cells that are named from now on are told of the pool; one that is named no more keeps what it has there."""
        if old.spec.cells != new.spec.cells:
            if new.spec.driver == Pool.FILE:
                raise verb_missing(new, Verb.SHARE, "pool.spec.cells")
            require_verb(old, Verb.SHARE, "pool.spec.cells")
        if new.spec.default and not old.spec.default:
            _take_default(txn, new)
        elif old.spec.default and not new.spec.default:
            txn.delete_key(_DEFAULT_KEY)

    async def begin_end(self, txn: Txn, record: Pool) -> Pool:
        if record.spec.default:
            txn.delete_key(_DEFAULT_KEY)
        return await super().begin_end(txn, record)


def _take_default(txn: Txn, pool: Pool) -> None:
    taken = FailedPrecondition(
        "DEFAULT_POOL_TAKEN",
        "another pool is the default one",
        field="pool.spec.default",
        fix="update that pool first to be the default no more",
    )
    txn.require_absent(_DEFAULT_KEY, taken)
    txn.put(_DEFAULT_KEY, pool.uid.encode())


def _require_ceph_pools(pool: Pool) -> None:
    if pool.spec.driver != Pool.RBD:
        return
    for field in ("volume_pool", "image_pool"):
        if not getattr(pool.spec, field):
            raise InvalidArgument(
                "CEPH_POOL_MISSING",
                f"a pool of driver RBD needs {field}",
                field=f"pool.spec.{field}",
                fix="name a pool of the Ceph cluster",
            )
