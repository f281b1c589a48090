"""Reads a whole table out of etcd at one revision, by bounded ranges."""

import asyncio

from kumo.store.etcd import kv_pb2, rpc_pb2
from kumo.store.interface import EtcdClient
from kumo.store.keys import SHARDS, Keys
from kumo.store.ops import prefix_end

# A table this small comes in one answer; a larger one is read shard by shard, a few at a time.
_ONE_ANSWER = 500
_PAGE = 1000
_PARALLEL = 4


async def load_table(etcd: EtcdClient, keys: Keys, table: str, revision: int = 0) -> tuple[list[kv_pb2.KeyValue], int]:
    """Return all keys of the records of `table`, and the revision they are of: `revision`, or the present one if 0.

    Raises Compacted if that revision is forgotten before all is read.
    """
    prefix = keys.records(table)
    request = rpc_pb2.RangeRequest(key=prefix, range_end=prefix_end(prefix), limit=_ONE_ANSWER, revision=revision)
    first = await etcd.range(request)
    revision = revision or first.header.revision
    if not first.more:
        return list(first.kvs), revision
    limit = asyncio.Semaphore(_PARALLEL)

    async def load_shard(number: int) -> list[kv_pb2.KeyValue]:
        async with limit:
            return await load_range(etcd, keys.records(table, f"{number:02x}"), revision)

    # gather and not a TaskGroup: the caller has to see Compacted itself.
    shards = await asyncio.gather(*(load_shard(number) for number in range(SHARDS)))
    return [item for items in shards for item in items], revision


async def load_range(etcd: EtcdClient, prefix: bytes, revision: int = 0) -> list[kv_pb2.KeyValue]:
    """Return all keys with `prefix`, page by page at one revision. For prefixes with little behind them."""
    items: list[kv_pb2.KeyValue] = []
    start, end = prefix, prefix_end(prefix)
    while True:
        page = await etcd.range(rpc_pb2.RangeRequest(key=start, range_end=end, limit=_PAGE, revision=revision))
        revision = revision or page.header.revision
        items += page.kvs
        if not page.more:
            return items
        start = page.kvs[-1].key + b"\0"
