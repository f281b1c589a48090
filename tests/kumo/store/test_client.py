"""The etcd client against members that are cut off, killed and frozen."""

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import Any

import grpc.aio
import pytest

from kumo.errors import Unavailable
from kumo.store import ops
from kumo.store.client import Etcd, Patience
from kumo.store.errors import Compacted, Unknown
from kumo.store.etcd import rpc_pb2
from kumo.store.interface import Watch
from tests.etcd import Cluster, cluster
from tests.kumo.store.things import until
from tests.tcp_proxy import proxy_to

# What is promised; a test may be three times as slow.
_NOTICED_S = 3 * 5.0
_RESUMED_S = 3 * 2.0


async def put(etcd: Etcd, key: bytes, value: bytes = b"") -> int:
    return (await etcd.txn(success=[ops.put(key, value)])).header.revision


async def first_put(etcd: Etcd, key: bytes) -> int:
    """Write until it is answered: members that have just met may still be choosing their leader."""
    while True:
        with suppress(Unavailable):
            return await put(etcd, key)


async def collect(watch: Watch, seen: list[tuple[int, bytes]]) -> None:
    async for batch in watch:
        seen += [(event.kv.mod_revision, event.kv.value) for event in batch.events]


async def test_a_catch_up_over_a_cut_delivers_every_event_once_in_order(shared: Cluster, etcd: Etcd) -> None:
    first = await put(etcd, b"/catch-up/0", b"first")
    for start in range(0, 5000, 100):
        await etcd.txn(success=[ops.put(b"/catch-up/%d" % number, b"x" * 100) for number in range(start % 500, start % 500 + 100)])
    last = await put(etcd, b"/catch-up/0", b"last")
    async with proxy_to(shared.members[0].port) as proxy, Etcd([proxy.address]) as client:
        proxy.cut_after(150_000)
        revisions: list[int] = []
        async with client.watch(b"/catch-up/", b"/catch-up0", first) as watch, asyncio.timeout(20):
            async for batch in watch:
                # A batch ends with a whole revision: the next one never begins with the same.
                assert not revisions or batch.events[0].kv.mod_revision > revisions[-1]
                revisions += [event.kv.mod_revision for event in batch.events]
                if revisions[-1] == last:
                    break
        assert proxy.cuts == 1
        assert len(revisions) == 5002 and revisions == sorted(revisions)


async def test_what_is_written_while_a_watch_is_cut_off_arrives(shared: Cluster, etcd: Etcd) -> None:
    start = await put(etcd, b"/away/0") + 1
    async with (
        proxy_to(shared.members[0].port) as proxy,
        Etcd([proxy.address]) as client,
        client.watch(b"/away/", b"/away0", start) as watch,
    ):
        seen: list[tuple[int, bytes]] = []
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collect(watch, seen))
            await put(etcd, b"/away/1", b"before")
            await until(lambda: len(seen) == 1)
            proxy.cut()
            await put(etcd, b"/away/1", b"while away")
            proxy.restore()
            await until(lambda: len(seen) == 2)
            collecting.cancel()
        assert [value for _, value in seen] == [b"before", b"while away"]


async def test_a_compaction_while_away_is_an_error_of_its_own(shared: Cluster, etcd: Etcd) -> None:
    start = await put(etcd, b"/gone/0")
    async with (
        proxy_to(shared.members[0].port) as proxy,
        Etcd([proxy.address]) as client,
        client.watch(b"/gone/", b"/gone0", start) as watch,
    ):
        async with asyncio.timeout(10):
            await anext(watch)
        proxy.cut()
        await put(etcd, b"/gone/1")
        revision = await put(etcd, b"/gone/2")
        await etcd.compact(revision)
        proxy.restore()
        with pytest.raises(Compacted) as error:
            async with asyncio.timeout(10):
                await anext(watch)
        assert error.value.revision == revision


async def test_progress_moves_an_idle_watch_past_a_compaction(shared: Cluster, etcd: Etcd) -> None:
    start = await put(etcd, b"/idle/0")
    async with proxy_to(shared.members[0].port) as proxy, Etcd([proxy.address]) as client:
        await client.connect()
        async with client.watch(b"/idle/", b"/idle0", start + 1) as watch, asyncio.timeout(10):
            revision = await put(etcd, b"/other")
            watch.ask_progress()
            batch = await anext(watch)
            assert not batch.events and batch.revision >= revision
            await etcd.compact(revision)
            proxy.break_all()
            await put(etcd, b"/idle/0", b"after")
            while not (batch := await anext(watch)).events:
                watch.ask_progress()
            assert batch.events[0].kv.value == b"after"


@pytest.mark.parametrize("shared", ["etcd"], indirect=True)
async def test_progress_never_covers_an_event_that_is_yet_to_come(shared: Cluster, etcd: Etcd) -> None:
    """The gate for versions of etcd whose progress answers may be believed; it looks at the stream itself."""
    covered = late = events = answers = 0
    stop = asyncio.Event()
    async with grpc.aio.insecure_channel(shared.addresses[0]) as channel:
        call: Any = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc_pb2.WatchRequest.SerializeToString,
            response_deserializer=rpc_pb2.WatchResponse.FromString,
        )()
        for number in range(1, 31):
            create = rpc_pb2.WatchCreateRequest(key=b"/probe/", range_end=b"/probe0", watch_id=number)
            await call.write(rpc_pb2.WatchRequest(create_request=create))

        async def read() -> None:
            nonlocal covered, late, events, answers
            while not stop.is_set():
                answer = await call.read()
                events += len(answer.events)
                late += sum(event.kv.mod_revision <= covered for event in answer.events)
                if not answer.events and not answer.created:
                    answers += 1
                    covered = max(covered, answer.header.revision)
                    if answers >= 30:
                        stop.set()

        async def write(number: int) -> None:
            while not stop.is_set():
                await put(etcd, b"/probe/%d" % number, b"x" * 200)

        async def ask() -> None:
            while not stop.is_set():
                await call.write(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
                await asyncio.sleep(0.005)

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            tasks.create_task(ask())
            for number in range(8):
                tasks.create_task(write(number))
        call.cancel()
    assert (late, events > 1000) == (0, True)


async def test_a_write_whose_answer_is_lost_is_unknown_and_a_read_is_repeated(shared: Cluster, etcd: Etcd) -> None:
    # One try of a write is soon given up here; how often a read is repeated is not what this is about.
    patience = Patience(per_try_s=0.3, request_s=20.0)
    async with proxy_to(shared.members[0].port) as proxy, Etcd([proxy.address], patience=patience) as client:
        await first_put(client, b"/lost/0")
        proxy.hold_answers()
        with pytest.raises(Unknown):
            await put(client, b"/lost/1", b"x")
        read = asyncio.ensure_future(client.range(rpc_pb2.RangeRequest(key=b"/lost/1")))
        proxy.break_all()
        proxy.restore()
        async with asyncio.timeout(20):
            assert (await read).kvs[0].value == b"x"


async def test_a_frozen_member_is_noticed_within_five_seconds() -> None:
    with cluster() as one:
        async with Etcd(one.addresses) as client:
            start = await first_put(client, b"k")
            async with client.watch(b"k", b"", start) as watch:
                await anext(watch)
                one.members[0].freeze()
                for attempt in (partial(client.range, rpc_pb2.RangeRequest(key=b"k")), partial(put, client, b"k")):
                    began = time.monotonic()
                    with pytest.raises(Unavailable):
                        await attempt()
                    assert time.monotonic() - began < _NOTICED_S
                one.members[0].thaw()
                await until(lambda: client.silent_s() < 1.0)
                await put(client, b"k", b"again")
                async with asyncio.timeout(10):
                    while not any(event.kv.value == b"again" for event in (await anext(watch)).events):
                        pass


async def test_writes_go_on_and_the_watch_is_complete_while_the_leader_of_three_is_frozen() -> None:
    with cluster(3) as three:
        async with Etcd(three.addresses) as client, Etcd(three.addresses) as judge:
            start = await first_put(client, b"/w/start")
            leader = await leader_of(client, three)
            written: list[tuple[float, bytes]] = []
            seen: list[tuple[int, bytes]] = []
            stop = asyncio.Event()

            async def write(number: int) -> None:
                count = 0
                while not stop.is_set():
                    count += 1
                    value = b"%d.%d" % (number, count)
                    with suppress(Unavailable):
                        await put(client, b"/w/%d" % number, value)
                        written.append((time.monotonic(), value))

            async with judge.watch(b"/w/", b"/w0", start) as watch, asyncio.TaskGroup() as tasks:
                collecting = tasks.create_task(collect(watch, seen))
                async with asyncio.TaskGroup() as writers:
                    for number in range(4):
                        writers.create_task(write(number))
                    await until(lambda: len(written) > 50)
                    three.members[leader].freeze()
                    frozen_at = time.monotonic()
                    await until(lambda: any(when > frozen_at + 1.0 for when, _ in written), timeout_s=_RESUMED_S)
                    resumed_after = next(when for when, _ in written if when > frozen_at + 0.3) - frozen_at
                    await until(lambda: time.monotonic() > frozen_at + 4.0)
                    three.members[leader].thaw()
                    stop.set()
                await until(lambda: {value for _, value in written} <= {value for _, value in seen})
                collecting.cancel()
            assert resumed_after < _RESUMED_S
            assert [revision for revision, _ in seen] == sorted({revision for revision, _ in seen})


async def leader_of(client: Etcd, members: Cluster) -> int:
    statuses = await client.status()
    leaders = [number for number, member in enumerate(members.members) if _is_leader(statuses[member.address])]
    return leaders[0]


def _is_leader(status: rpc_pb2.StatusResponse) -> bool:
    return status.leader == status.header.member_id
