"""Usage counters under many commits at once."""

import asyncio

import pytest

from kumo.errors import AlreadyExists, Error, ResourceExhausted
from kumo.store.client import Etcd
from kumo.store.errors import ReferencedError, TargetGone
from kumo.store.plane import Plane
from kumo.store.txn import Txn
from kumo.store.usage import Usage
from tests.kumo.store.record_pb2 import Thing
from tests.kumo.store.things import create, thing, things


async def test_commits_of_one_project_go_together_and_are_all_counted(etcd: Etcd, plane: Plane) -> None:
    table = things(plane)
    async with plane:
        usage = Usage(plane)
        before = await plane.revision()

        async def one(number: int) -> None:
            txn = plane.txn()
            txn.create(table, thing(f"a/{number}"))
            await usage.commit(txn, "p", {"things": 1, "size": number})

        async with asyncio.TaskGroup() as tasks:
            for number in range(64):
                tasks.create_task(one(number))
        assert await usage.of("p") == {"things": 64, "size": sum(range(64))}
        assert len(await table.uids()) == 64
        assert await plane.revision() - before < 20


async def test_commits_that_are_large_together_go_in_requests_that_etcd_takes(plane: Plane) -> None:
    async with plane:
        usage = Usage(plane)

        async def one(number: int) -> None:
            txn = plane.txn()
            txn.put(f"large/{number}", bytes(300 << 10))
            await usage.commit(txn, "p", {"things": 1})

        async with asyncio.TaskGroup() as tasks:
            for number in range(12):
                tasks.create_task(one(number))
        assert await usage.of("p") == {"things": 12}


async def test_one_that_is_refused_does_not_take_others_with_it(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        usage = Usage(plane)

        async def one(name: str) -> str:
            txn = plane.txn()
            txn.create(table, thing(name))
            try:
                await usage.commit(txn, "p", {"things": 1})
            except AlreadyExists:
                return "taken"
            return "made"

        async with asyncio.TaskGroup() as tasks:
            ends = [tasks.create_task(one(f"a/{number % 10}")) for number in range(30)]
        assert sorted(end.result() for end in ends) == ["made"] * 10 + ["taken"] * 20
        assert await usage.of("p") == {"things": 10}


async def test_two_processes_count_the_same_project_exactly(etcd: Etcd, plane: Plane) -> None:
    table = things(plane)
    other = await Plane.open(etcd, plane.keys.prefix, format_version=1)
    others = things(other)
    async with plane, other:
        ledgers = ((plane, table, Usage(plane)), (other, others, Usage(other)))

        async def one(number: int) -> None:
            at, its_table, usage = ledgers[number % 2]
            txn = at.txn()
            txn.create(its_table, thing(f"a/{number}"))
            await usage.commit(txn, "p", {"things": 1})

        async with asyncio.TaskGroup() as tasks:
            for number in range(40):
                tasks.create_task(one(number))
        assert await ledgers[0][2].of("p") == {"things": 40}


async def test_a_check_sees_the_sum_with_those_before_it_in_the_batch(plane: Plane) -> None:
    table = things(plane)

    def at_most_five(sums: object) -> None:
        assert isinstance(sums, dict)
        if sums["things"] > 5:
            raise ResourceExhausted("QUOTA_EXCEEDED", f"{sums['things']} things are more than 5")

    async with plane:
        usage = Usage(plane)

        async def one(number: int) -> Error | None:
            txn = plane.txn()
            txn.create(table, thing(f"a/{number}"))
            try:
                await usage.commit(txn, "p", {"things": 1}, check=at_most_five)
            except ResourceExhausted as error:
                return error
            return None

        async with asyncio.TaskGroup() as tasks:
            ends = [tasks.create_task(one(number)) for number in range(20)]
        assert sum(end.result() is None for end in ends) == 5
        assert await usage.of("p") == {"things": 5}


async def test_what_excludes_each_other_is_not_done_at_once(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        usage = Usage(plane)

        async def commit(txn: Txn, delta: int) -> bool:
            try:
                await usage.commit(txn, "p", {"things": delta})
            except (TargetGone, ReferencedError):
                return False
            return True

        for number in range(10):
            target = await create(plane, table, thing(f"t/{number}"))
            refer, mark = plane.txn(), plane.txn()
            refer.create(table, thing(f"u/{number}", target=target.uid))
            marked = Thing()
            marked.CopyFrom(target)
            marked.delete_time.GetCurrentTime()
            mark.update_intent(table, target, marked)
            pair = [(refer, 1), (mark, 2)] if number % 2 else [(mark, 2), (refer, 1)]
            async with asyncio.TaskGroup() as tasks:
                # The first one keeps the queue busy, so that the other two go as one batch if they can.
                ends = [tasks.create_task(commit(txn, delta)) for txn, delta in ((plane.txn(), 4), *pair)]
            assert [end.result() for end in ends] == [True, True, False]


async def test_a_caller_that_gives_up_harms_nobody_else(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        usage = Usage(plane)

        async def one(number: int) -> None:
            txn = plane.txn()
            txn.create(table, thing(f"a/{number}"))
            await usage.commit(txn, "p", {"things": 1})

        first = asyncio.ensure_future(one(0))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(one(1))
        first.cancel()
        async with asyncio.timeout(5):
            await second
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await table.get("a/1")) is not None
