"""What a watcher of a table sees: every change once, in order, and from a token on exactly what came after it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from kumo.errors import Aborted, InvalidArgument
from kumo.store import replay
from kumo.store.client import Etcd
from kumo.store.history import History
from kumo.store.plane import Plane
from kumo.store.table import Table
from kumo.store.watch import Change, Kind
from tests.kumo.store.record_pb2 import Thing
from tests.kumo.store.things import create, delete, thing, things, update


def shape(change: Change[Thing]) -> tuple[str, str, int]:
    return (change.kind.value, change.record.name if change.record else "", change.record.spec.size if change.record else 0)


async def take(changes: AsyncIterator[Change[Thing]], count: int) -> list[Change[Thing]]:
    async with asyncio.timeout(10):
        return [await anext(changes) for _ in range(count)]


async def take_until_synced(changes: AsyncIterator[Change[Thing]]) -> list[Change[Thing]]:
    taken: list[Change[Thing]] = []
    async with asyncio.timeout(10):
        async for change in changes:
            taken.append(change)
            if change.kind is Kind.SYNCED:
                return taken
    raise AssertionError("the watch ended")


@asynccontextmanager
async def second_process(etcd: Etcd, plane: Plane) -> AsyncGenerator[tuple[Plane, Table[Thing]], None]:
    """The same plane as another process sees it, with nothing remembered."""
    other = await Plane.open(etcd, plane.keys.prefix, format_version=1)
    table = things(other)
    async with other:
        yield other, table


async def test_a_watch_begins_with_what_there_is_and_goes_on_with_what_happens(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        one = await create(plane, table, thing("a/1", size=1))
        async with aclosing(table.watch(prefix="a/")) as changes:
            assert [shape(change) for change in await take(changes, 2)] == [("existing", "a/1", 1), ("synced", "", 0)]
            two = await create(plane, table, thing("a/2"))
            await create(plane, table, thing("b/1"))
            one = await update(plane, table, one, size=5)
            await delete(plane, table, two)
            shapes = [shape(change) for change in await take(changes, 3)]
        assert shapes == [("created", "a/2", 0), ("updated", "a/1", 5), ("deleted", "a/2", 0)]


async def test_a_record_that_begins_or_ceases_to_fit_comes_and_goes(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        one = await create(plane, table, thing("a/1", size=1))
        async with aclosing(table.watch(match=lambda item: item.spec.size > 3, filter_id="big")) as changes:
            await take_until_synced(changes)
            one = await update(plane, table, one, size=5)
            one = await update(plane, table, one, size=6)
            await update(plane, table, one, size=2)
            assert [shape(change)[0] for change in await take(changes, 3)] == ["created", "updated", "deleted"]


@pytest.mark.parametrize("is_same_process", [True, False])
async def test_a_token_inside_a_revision_leads_to_the_rest_of_it(etcd: Etcd, plane: Plane, is_same_process: bool) -> None:
    table = things(plane)
    async with plane, second_process(etcd, plane) as (_, fresh):
        async with aclosing(table.watch()) as changes:
            await take_until_synced(changes)
            txn = plane.txn()
            for number in range(3):
                txn.create(table, thing(f"a/{number}"))
            revision = await txn.commit()
            first = await take(changes, 1)
        await fresh.mirror.wait(revision)
        again = things(plane_of_nobody := await Plane.open(etcd, plane.keys.prefix, format_version=1))
        async with plane_of_nobody:
            reader = table if is_same_process else again
            async with aclosing(reader.watch(first[0].resume_token)) as changes:
                rest = await take_until_synced(changes)
        names = [change.record.name for change in (*first, *rest) if change.record]
        assert sorted(names) == ["a/0", "a/1", "a/2"] and len(rest) == 3


async def test_a_new_process_resumes_from_etcds_own_history(etcd: Etcd, plane: Plane) -> None:
    table = things(plane)
    async with plane:
        one = await create(plane, table, thing("a/1", size=1))
        async with aclosing(table.watch()) as changes:
            token = (await take_until_synced(changes))[-1].resume_token
        for size in range(2, 30):
            one = await update(plane, table, one, size=size)
        await delete(plane, table, one)
        async with second_process(etcd, plane) as (_, fresh), aclosing(fresh.watch(token)) as changes:
            seen = [shape(change) for change in await take_until_synced(changes)]
            assert seen == [*(("updated", "a/1", size) for size in range(2, 30)), ("deleted", "a/1", 29), ("synced", "", 0)]
            await create(plane, table, thing("a/2"))
            assert [shape(change) for change in await take(changes, 1)] == [("created", "a/2", 0)]


async def test_a_long_history_is_read_in_parts(etcd: Etcd, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_MOST_STEPS", 7)
    table = things(plane)
    async with plane:
        token = (await table.list()).resume_token
        one = await create(plane, table, thing("a/1"))
        for size in range(1, 25):
            one = await update(plane, table, one, size=size)
        async with second_process(etcd, plane) as (_, fresh), aclosing(fresh.watch(token)) as changes:
            seen = [shape(change)[2] for change in await take_until_synced(changes)]
        assert seen == [*range(25), 0]


async def test_a_mirror_that_was_there_resumes_over_a_compaction(etcd: Etcd, plane: Plane) -> None:
    table = things(plane)
    async with plane:
        async with aclosing(table.watch()) as changes:
            token = (await take_until_synced(changes))[-1].resume_token
        one = await create(plane, table, thing("a/1", size=1))
        await update(plane, table, one, size=2)
        await etcd.compact(await plane.revision())
        async with aclosing(table.watch(token)) as changes:
            assert [shape(change)[0] for change in await take_until_synced(changes)] == ["created", "updated", "synced"]
        async with second_process(etcd, plane) as (_, fresh), aclosing(fresh.watch(token)) as changes:
            with pytest.raises(Aborted, match="RESUME_TOKEN_EXPIRED"):
                await anext(changes)


async def test_an_idle_watch_is_given_newer_tokens(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        async with aclosing(table.watch(bookmark_s=0.05)) as changes:
            before = (await take_until_synced(changes))[-1]
            txn = plane.txn()
            txn.put("elsewhere", b"")
            revision = await txn.commit()
            await table.mirror.wait(revision)
            after = (await take_until_synced(changes))[-1]
        assert after.revision >= revision > before.revision


async def test_a_reader_that_does_not_keep_up_is_ended_with_a_token_to_resume(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        one = await create(plane, table, thing("a/1"))
        table.mirror.history = History(table.mirror.revision, most_steps=5)
        async with aclosing(table.watch()) as changes:
            await take_until_synced(changes)
            for size in range(1, 21):
                one = await update(plane, table, one, size=size)
            with pytest.raises(Aborted, match="WATCH_TOO_SLOW") as refusal:
                await take(changes, 20)
        async with aclosing(table.watch(refusal.value.metadata["resume_token"])) as changes:
            sizes = [shape(change)[2] for change in await take_until_synced(changes)]
        assert sizes == [*range(1, 21), 0]


async def test_a_token_of_another_store_or_of_nobody_is_refused(etcd: Etcd, plane: Plane) -> None:
    table = things(plane)
    other = await Plane.open(etcd, plane.keys.prefix + "-other", format_version=1)
    others = things(other)
    async with plane, other:
        page = await others.list()
        with pytest.raises(Aborted, match="RESUME_TOKEN_EXPIRED"):
            await anext(table.watch(page.resume_token))
        own = await table.list("a/")
        for token, prefix in ((own.resume_token, "b/"), (own.resume_token[:-3] + "AAA", "a/"), ("!", "a/")):
            with pytest.raises(InvalidArgument, match="RESUME_TOKEN_INVALID"):
                await anext(table.watch(token, prefix=prefix))


async def test_list_and_watch_from_its_first_page_miss_nothing(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        made = [await create(plane, table, thing(f"a/{number}")) for number in range(6)]
        first = await table.list(page_size=2)
        await update(plane, table, made[0], size=9)
        await delete(plane, table, made[5])
        seen = {item.name: item.spec.size for item in first.items}
        page = first
        while page.next_page_token:
            page = await table.list(page_size=2, page_token=page.next_page_token)
            seen |= {item.name: item.spec.size for item in page.items}
        async with aclosing(table.watch(page.resume_token)) as changes:
            for change in await take_until_synced(changes):
                if change.record is not None:
                    if change.kind is Kind.DELETED:
                        seen.pop(change.record.name, None)
                    else:
                        seen[change.record.name] = change.record.spec.size
        assert seen == {"a/0": 9, "a/1": 0, "a/2": 0, "a/3": 0, "a/4": 0}
