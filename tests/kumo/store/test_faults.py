"""One promise and one fault at a time; test_world.py mixes them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress

import pytest

from kumo.errors import FailedPrecondition, Unavailable
from kumo.store.client import Etcd, Patience
from kumo.store.errors import Conflict, ReferencedError, TargetGone
from kumo.store.plane import Plane
from kumo.store.table import Table
from kumo.store.watch import Kind
from tests.etcd import Cluster, cluster
from tests.kumo.store.record_pb2 import Thing
from tests.kumo.store.things import create, delete, thing, things, until, update
from tests.tcp_proxy import Proxy, proxy_to


@asynccontextmanager
async def behind_a_proxy(shared: Cluster, plane: Plane) -> AsyncGenerator[tuple[Proxy, Plane, Table[Thing]], None]:
    """The same plane, as a process sees it that a fault can cut off."""
    patience = Patience(per_try_s=0.3, request_s=0.6)
    async with proxy_to(shared.members[0].port) as proxy, Etcd([proxy.address], patience=patience) as etcd:
        other = await Plane.open(etcd, plane.keys.prefix, format_version=1)
        table = things(other)
        async with other:
            await table.mirror.wait()
            yield proxy, other, table


async def test_a_mirror_that_missed_history_lists_again_and_tells_of_the_deletes(shared: Cluster, etcd: Etcd, plane: Plane) -> None:
    table = things(plane)
    async with plane, behind_a_proxy(shared, plane) as (proxy, _, mirrored):
        kept = await create(plane, table, thing("a/kept", color="red"))
        gone = await create(plane, table, thing("a/gone", color="red"))
        await mirrored.mirror.wait(await plane.revision())
        told: list[str] = []
        mirrored.on_change(told.append)
        told.clear()
        async with aclosing(mirrored.watch()) as changes:
            while (await anext(changes)).kind is not Kind.SYNCED:
                pass
            proxy.cut()
            await delete(plane, table, gone)
            await update(plane, table, kept, size=3)
            await create(plane, table, thing("a/new"))
            await etcd.compact(await plane.revision())
            proxy.restore()
            async with asyncio.timeout(10):
                seen = [await anext(changes) for _ in range(3)]
        assert sorted((change.kind.value, change.record.name) for change in seen if change.record) == [
            ("created", "a/new"),
            ("deleted", "a/gone"),
            ("updated", "a/kept"),
        ]
        assert len(told) == 3 and gone.uid in told
        assert mirrored.mirror.replica.entries == table.mirror.replica.entries
        assert [item.name for item in await mirrored.find("color", "red")] == ["a/kept"]


@pytest.mark.parametrize("is_cut", [True, False])
async def test_a_commit_whose_answer_is_lost_is_read_back(shared: Cluster, plane: Plane, is_cut: bool) -> None:
    table = things(plane)
    async with plane, behind_a_proxy(shared, plane) as (proxy, other, mirrored):

        async def losing(work: "asyncio.Future[object] | asyncio.Task[object]") -> None:
            await asyncio.sleep(0.1)
            if is_cut:
                proxy.break_all()
            proxy.restore()
            async with asyncio.timeout(10):
                await work

        proxy.hold_answers()
        creating = asyncio.ensure_future(create(other, mirrored, thing("a/1")))
        await losing(creating)
        made = creating.result()
        proxy.hold_answers()
        updating = asyncio.ensure_future(update(other, mirrored, made, size=2))
        await losing(updating)
        newer = updating.result()
        assert await table.get("a/1", min_revision=await plane.revision()) == newer
        proxy.hold_answers()
        await losing(asyncio.ensure_future(delete(other, mirrored, newer)))
        assert await table.get("a/1", min_revision=await plane.revision()) is None
        assert newer.generation == 2 and made.etag != newer.etag


async def test_reads_go_on_and_writes_are_refused_soon_while_etcd_is_away(shared: Cluster, plane: Plane) -> None:
    table = things(plane)
    async with plane, behind_a_proxy(shared, plane) as (proxy, other, mirrored):
        await create(plane, table, thing("a/1"))
        await mirrored.mirror.wait(await plane.revision())
        proxy.cut()
        began = asyncio.get_running_loop().time()
        txn = other.txn()
        txn.put("x", b"")
        with pytest.raises(Unavailable):
            await txn.commit()
        assert asyncio.get_running_loop().time() - began < 3.0
        assert await mirrored.get("a/1") is not None
        await until(lambda: other.silent_s() > 0.2)
        with pytest.raises(Unavailable, match="MIRROR_BEHIND"):
            await mirrored.mirror.wait(10**9, 0.1)


async def test_a_write_is_taken_as_soon_as_etcd_answers_again() -> None:
    """Nothing was heard of it for seconds, as when this process itself was stopped; yet it answers."""
    with cluster() as store:
        async with Etcd(store.addresses) as etcd, await Plane.open(etcd, "/kumo/test/", format_version=1) as other:
            table = things(other)
            await create(other, table, thing("a/1"))
            store.members[0].freeze()
            try:
                await until(lambda: other.silent_s() > 3.0)
                began = asyncio.get_running_loop().time()
                with pytest.raises(Unavailable, match="STORE_UNREACHABLE"):
                    await create(other, table, thing("a/2"))
                assert asyncio.get_running_loop().time() - began < 3 * 1.0
            finally:
                store.members[0].thaw()
            await create(other, table, thing("a/3"))


async def test_whoever_follows_or_waits_is_told_when_the_process_has_ended(etcd: Etcd, plane: Plane) -> None:
    table = things(plane)
    async with plane:
        await create(plane, table, thing("a/1"))
        changes = table.watch()
        while (await anext(changes)).kind is not Kind.SYNCED:
            pass
        following, waiting = asyncio.ensure_future(anext(changes)), asyncio.ensure_future(table.mirror.wait(10**9, 30.0))
        await asyncio.sleep(0)  # both begin, and wait
    for one in (following, waiting, asyncio.ensure_future(table.mirror.moved())):
        with pytest.raises(Unavailable, match="MIRROR_ENDED"):
            async with asyncio.timeout(10):
                await one


async def test_a_target_is_never_deleted_under_a_referrer_that_came_at_the_same_time(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        for number in range(20):
            target = await create(plane, table, thing(f"t/{number}"))
            async with asyncio.TaskGroup() as tasks:
                refer = tasks.create_task(_succeeds(create(plane, table, thing(f"u/{number}", target=target.uid)), TargetGone))
                remove = tasks.create_task(_succeeds(delete(plane, table, target), ReferencedError))
            assert refer.result() != remove.result()


async def test_of_two_writers_with_one_etag_one_wins(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        made = await create(plane, table, thing("a/1"))
        async with asyncio.TaskGroup() as tasks:
            ends = [tasks.create_task(_succeeds(update(plane, table, made, size=size), Conflict)) for size in range(1, 9)]
        assert sum(end.result() for end in ends) == 1


async def test_a_newer_format_is_refused(etcd: Etcd, plane: Plane) -> None:
    newer = await Plane.open(etcd, plane.keys.prefix + "-newer", format_version=2)
    with pytest.raises(FailedPrecondition, match="STORE_FORMAT_NEWER"):
        await Plane.open(etcd, newer.keys.prefix, format_version=1)
    assert (await Plane.open(etcd, plane.keys.prefix, format_version=2)).format_version == 1


async def test_processes_that_begin_together_agree_on_one_incarnation(etcd: Etcd, plane: Plane) -> None:
    prefix = plane.keys.prefix + "-together"
    opened = await asyncio.gather(*(Plane.open(etcd, prefix, format_version=1) for _ in range(8)))
    assert len({one.incarnation for one in opened}) == 1


async def _succeeds(work: "asyncio.Future[object] | object", refusal: type[Exception]) -> bool:
    with suppress(refusal):
        await work  # type: ignore[misc]  # any awaitable
        return True
    return False
