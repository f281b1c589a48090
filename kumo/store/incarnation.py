"""Tells a plane that its store went back in time: gives it a new incarnation, greater than the last, before anybody leads again.

Whatever restores a store does this. Terms, etags, page and resume tokens of before are then worth nothing, and known to be.
"""

import uuid

from kumo.ids import new_uid
from kumo.log import get_logger
from kumo.store import ops
from kumo.store.etcd import rpc_pb2
from kumo.store.interface import EtcdClient
from kumo.store.keys import Keys

log = get_logger(__name__)


def after(last: str) -> str:
    """Return a UUIDv7 that is greater than `last`, also on a machine whose clock is behind."""
    fresh = new_uid()
    return fresh if fresh > last else str(uuid.UUID(int=uuid.UUID(last).int + 1))


async def renew(etcd: EtcdClient, prefix: str) -> str:
    """Write a new incarnation of the plane at `prefix` and return it; whoever led there leads no more.

    Returns "" if there is no plane. Raises Unknown or StoreUnreachable if nobody can say what became of it: then do it again.
    """
    keys = Keys(prefix.rstrip("/"))
    key = keys.raw("incarnation")
    while found := (await etcd.range(rpc_pb2.RangeRequest(key=key))).kvs:
        fresh = after(found[0].value.decode())
        writes = [ops.put(key, fresh.encode()), ops.delete(keys.raw("lead"))]
        if (await etcd.txn([ops.mod_revision_is(key, found[0].mod_revision)], writes)).succeeded:
            log.info("plane renewed", prefix=prefix, incarnation=fresh, before=found[0].value.decode())
            return fresh
    return ""
