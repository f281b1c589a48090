"""etcd full, and writable again without a person."""

import asyncio

import pytest

from kumo.errors import Unavailable
from kumo.store import ops
from kumo.store.client import Etcd, Patience
from kumo.store.errors import Compacted, StoreFull
from kumo.store.etcd import rpc_pb2
from kumo.store.maintenance import Maintenance, Schedule
from kumo.store.plane import Plane
from tests.etcd import cluster
from tests.kumo.store.things import create, thing, things

_QUOTA = 16 << 20
# What is measured here is not how fast a busy machine answers.
PATIENT = Patience(per_try_s=10.0, request_s=20.0)


@pytest.mark.parametrize("is_leading", [True, False])
async def test_a_full_store_says_so_and_takes_writes_again_by_itself(is_leading: bool) -> None:
    with cluster(extra=[f"--quota-backend-bytes={_QUOTA}"]) as one:
        async with Etcd(one.addresses, patience=PATIENT) as etcd:
            plane = await Plane.open(etcd, "/full", format_version=1)
            table = things(plane)
            async with plane:
                await create(plane, table, thing("a/1"))
                with pytest.raises(StoreFull) as refusal:
                    for _ in range(200):  # etcd learns of its size a moment later
                        await etcd.txn(success=[ops.put(b"/full/ballast", bytes(1_000_000))])
                assert isinstance(refusal.value, Unavailable) and refusal.value.reason == "STORE_FULL"
                with pytest.raises(StoreFull):
                    await create(plane, table, thing("a/2"))
                assert (await table.get("a/1")) is not None
                again = await Plane.open(etcd, "/full", format_version=1)
                assert again.incarnation == plane.incarnation
                maintenance = Maintenance(etcd, is_leading=lambda: is_leading, has_leader=lambda: is_leading, quota_bytes=_QUOTA)
                await maintenance.look()
                await create(plane, table, thing("a/2"))
                assert [item.name for item in (await table.list()).items] == ["a/1", "a/2"]


async def test_history_is_forgotten_only_when_it_is_old() -> None:
    with cluster() as one:
        async with Etcd(one.addresses, patience=PATIENT) as etcd:
            schedule = Schedule(look_s=0.05, compact_s=0.1, keep_s=0.3)
            maintenance = Maintenance(etcd, is_leading=lambda: True, has_leader=lambda: True, quota_bytes=_QUOTA, schedule=schedule)
            first = (await etcd.txn(success=[ops.put(b"k", b"0")])).header.revision
            looking = asyncio.ensure_future(maintenance.run())
            try:
                async with asyncio.timeout(10):
                    while True:
                        last = (await etcd.txn(success=[ops.put(b"k", b"1")])).header.revision
                        try:
                            await etcd.range(rpc_pb2.RangeRequest(key=b"k", revision=first))
                        except Compacted:
                            break
                await etcd.range(rpc_pb2.RangeRequest(key=b"k", revision=last))
            finally:
                looking.cancel()
