"""What is sent together ends as if each had gone by itself."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from kumo.ids import new_uid
from kumo.store import ops
from kumo.store.barrier import Barrier
from kumo.store.changes import Changes, Committed, Refused
from kumo.store.client import Etcd
from kumo.store.errors import LeaseGone, StoreUnreachable
from kumo.store.etcd import rpc_pb2 as pb
from kumo.store.group import GroupCommit
from kumo.store.keys import Keys
from tests.etcd import Cluster


class Counting(Etcd):
    """Counts the transactions it sends, and holds them while it is told to."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(addresses)
        self.sent: list[int] = []
        self.is_sending, self.may_go = asyncio.Event(), asyncio.Event()
        self.may_go.set()

    async def txn(
        self, compare: Sequence[pb.Compare] = (), success: Sequence[pb.RequestOp] = (), failure: Sequence[pb.RequestOp] = ()
    ) -> pb.TxnResponse:
        self.sent.append(len(success))
        self.is_sending.set()
        await self.may_go.wait()
        return await super().txn(compare, success, failure)


@pytest.fixture
async def etcd(shared: Cluster) -> AsyncIterator[Counting]:
    async with Counting(shared.addresses) as made:
        yield made


@pytest.fixture
def keys() -> Keys:
    return Keys(f"/test/{new_uid()}")


def group(etcd: Etcd, keys: Keys) -> GroupCommit:
    return GroupCommit(etcd, Barrier(etcd, keys, random.Random(1)))


def changes(writes: Sequence[bytes], absent: Sequence[bytes] = (), *, lease: int = 0) -> Changes:
    made = Changes()
    for key in absent:
        made.require(ops.create_revision_is(key, 0), lambda _: KeyError("absent"))
    for key in writes:
        made.put(key, b"made", lease)
    return made


async def test_many_at_once_are_few_transactions(etcd: Counting, keys: Keys) -> None:
    sender = group(etcd, keys)
    names = [keys.raw(f"a/{number}") for number in range(150)]
    results = await asyncio.gather(*(sender.send(changes([name], [name])) for name in names))
    assert all(isinstance(one, Committed) for one in results)
    assert etcd.sent == [100, 50]


async def test_whoever_comes_first_waits_for_nobody(etcd: Counting, keys: Keys) -> None:
    sender = group(etcd, keys)
    etcd.may_go.clear()
    first = asyncio.ensure_future(sender.send(changes([keys.raw("a")])))
    await etcd.is_sending.wait()
    others = [asyncio.ensure_future(sender.send(changes([keys.raw(f"b/{number}")]))) for number in range(5)]
    etcd.may_go.set()
    await asyncio.gather(first, *others)
    assert etcd.sent == [1, 5]


async def test_one_is_refused_for_its_own_guards_and_the_others_are_not(etcd: Counting, keys: Keys) -> None:
    sender = group(etcd, keys)
    names = [keys.raw(name) for name in "abcd"]
    await sender.send(changes([names[1]]))
    results = await asyncio.gather(*(sender.send(changes([name], [name])) for name in names))
    assert [type(one) for one in results] == [Committed, Refused, Committed, Committed]
    refused = results[1]
    assert isinstance(refused, Refused) and list(refused.found) == [names[1]] and len(refused.failed) == 1
    assert etcd.sent == [1, 4, 3]


async def test_two_that_each_look_at_what_the_other_writes_are_not_both_written(etcd: Counting, keys: Keys) -> None:
    sender = group(etcd, keys)
    a, b = keys.raw("a"), keys.raw("b")
    results = await asyncio.gather(sender.send(changes([a], [b])), sender.send(changes([b], [a])))
    assert sorted(type(one).__name__ for one in results) == ["Committed", "Refused"]


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_told_is_what_is_stored(etcd: Counting, keys: Keys, seed: int) -> None:
    rng = random.Random(seed)
    sender, names = group(etcd, keys), [keys.raw(f"{number}") for number in range(8)]
    wanted = [(rng.sample(names, 2), rng.sample(names, rng.randrange(3))) for _ in range(40)]
    results = await asyncio.gather(*(sender.send(changes(writes, absent)) for writes, absent in wanted))
    told = [(writes, absent, one.revision) for (writes, absent), one in zip(wanted, results, strict=True) if isinstance(one, Committed)]
    # In the order of the revisions, and as they were asked for within one, each finds what it demands.
    present: set[bytes] = set()
    for writes, absent, _ in sorted(told, key=lambda one: one[2]):
        assert not present & set(absent)
        present |= set(writes)
    found = await etcd.range(pb.RangeRequest(key=keys.raw(""), range_end=ops.prefix_end(keys.raw(""))))
    assert {item.key for item in found.kvs} - {sender.barrier.key} == present
    assert any(isinstance(one, Refused) for one in results)


async def test_what_etcd_has_against_one_is_told_to_that_one(etcd: Counting, keys: Keys) -> None:
    sender = group(etcd, keys)
    asked = [changes([keys.raw("a")]), changes([keys.raw("b")], lease=12345), changes([keys.raw("c")])]
    results = await asyncio.gather(*(sender.send(one) for one in asked), return_exceptions=True)
    assert [type(one) for one in results] == [Committed, LeaseGone, Committed]


async def test_whoever_gives_up_while_it_waits_has_sent_nothing(etcd: Counting, keys: Keys) -> None:
    sender = group(etcd, keys)
    etcd.may_go.clear()
    sent, waiting, other = (asyncio.ensure_future(sender.send(changes([keys.raw(name)]))) for name in "abc")
    await etcd.is_sending.wait()
    late = [asyncio.ensure_future(sender.send(changes([keys.raw(name)]))) for name in "de"]
    await asyncio.sleep(0)
    sent.cancel()
    late[0].cancel()
    etcd.may_go.set()
    await asyncio.gather(waiting, other, late[1])
    found = await etcd.range(pb.RangeRequest(key=keys.raw(""), range_end=ops.prefix_end(keys.raw("")), keys_only=True))
    assert [item.key for item in found.kvs] == [keys.raw(name) for name in "abce"]


async def test_nobody_waits_for_a_client_that_is_closed(shared: Cluster, keys: Keys) -> None:
    async with Counting(shared.addresses) as etcd:
        sender = group(etcd, keys)
        etcd.may_go.clear()
        first = asyncio.ensure_future(sender.send(changes([keys.raw("a")])))
        await etcd.is_sending.wait()
        second = asyncio.ensure_future(sender.send(changes([keys.raw("b")])))
        await asyncio.sleep(0)
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [getattr(one, "reason", "") for one in results] == ["OUTCOME_UNKNOWN", "STORE_UNREACHABLE"]
    assert isinstance(results[1], StoreUnreachable)
