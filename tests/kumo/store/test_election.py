"""The election, judged by the store's own history: terms of fenced writes never fall, whatever happens to a leader."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from kumo.store import ops
from kumo.store.client import Etcd
from kumo.store.errors import Deposed
from kumo.store.plane import Plane
from kumo.store.term import Term
from tests.etcd import Cluster
from tests.kumo.store.things import create, thing, things, until

_ROOT = Path(__file__).resolve().parents[3]
_TTL_S = 2
# What is promised is TTL + 1 s; a test may be three times as slow.
_GAP_S = 3 * (_TTL_S + 1)


class History:
    """Every fenced write, as (when seen, term, who)."""

    def __init__(self) -> None:
        self.writes: list[tuple[float, int, str]] = []

    @property
    def is_written(self) -> bool:
        """Somebody leads and writes just now."""
        return bool(self.writes) and time.monotonic() - self.writes[-1][0] < 0.3

    def is_after(self, term: int) -> bool:
        return self.writes[-1][1] > term

    def count_by(self, name: str) -> int:
        return sum(who == name for _, _, who in self.writes)


@asynccontextmanager
async def judged(etcd: Etcd, plane: Plane) -> AsyncGenerator[History, None]:
    history = History()
    key = plane.keys.raw("fenced")
    start = await plane.revision() + 1

    async def judge() -> None:
        async with etcd.watch(key, b"", start) as watch:
            async for batch in watch:
                for event in batch.events:
                    term, who = event.kv.value.decode().split()
                    assert not history.writes or history.writes[-1][1] <= int(term), "a write of an older term"
                    history.writes.append((time.monotonic(), int(term), who))

    async with asyncio.TaskGroup() as tasks:
        judging = tasks.create_task(judge())
        yield history
        judging.cancel()


@contextmanager
def candidates(address: str, prefix: str, ttl_s: int = _TTL_S) -> Generator["dict[str, subprocess.Popen[bytes]]", None, None]:
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in ("one", "two"):
            processes[name] = spawn(address, prefix, name, ttl_s)
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def spawn(address: str, prefix: str, name: str, ttl_s: int = _TTL_S) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.kumo.store.candidate", address, prefix, name, str(ttl_s)]
    return subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("shared", ["etcd"], indirect=True)
async def test_a_killed_frozen_or_stopped_leader_is_followed_and_never_writes_again(shared: Cluster, etcd: Etcd, plane: Plane) -> None:
    async with judged(etcd, plane) as history:
        with candidates(shared.addresses[0], plane.keys.prefix) as processes:
            for how in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
                await until(lambda: history.is_written)
                _, term, leader = history.writes[-1]
                process = processes[leader]
                process.send_signal(how)
                if how is not signal.SIGSTOP:
                    await asyncio.to_thread(process.wait)
                    processes[leader] = spawn(shared.addresses[0], plane.keys.prefix, leader)
                await until(partial(history.is_after, term), timeout_s=_GAP_S)
                if how is signal.SIGSTOP:
                    written = history.count_by(leader)
                    process.send_signal(signal.SIGCONT)
                    # It is awake for certain once it campaigns again, or would have written fifteen times.
                    await asyncio.sleep(0.3)
                    assert history.count_by(leader) == written


@pytest.mark.parametrize("shared", ["etcd"], indirect=True)
async def test_a_leader_that_is_asked_to_end_is_followed_without_waiting_for_its_lease(shared: Cluster, etcd: Etcd, plane: Plane) -> None:
    async with judged(etcd, plane) as history:
        with candidates(shared.addresses[0], plane.keys.prefix, ttl_s=120) as processes:
            await until(lambda: history.is_written)
            _, term, leader = history.writes[-1]
            processes[leader].send_signal(signal.SIGTERM)
            await until(partial(history.is_after, term), timeout_s=30.0)


async def test_a_transaction_of_an_ended_term_is_refused(plane: Plane) -> None:
    table = things(plane)
    terms: list[Term] = []

    async def lead(term: Term) -> None:
        terms.append(term)
        assert plane.election.is_leading and plane.election.term == term and not plane.election.lost.is_set()
        txn = plane.txn(fence=term)
        txn.create(table, thing("a/in-term"))
        await txn.commit()

    async with plane:
        await plane.election.run("here", lead, ttl_s=_TTL_S)
        assert not plane.election.is_leading and plane.election.lost.is_set()
        await plane.election.run("here", lead_nothing, ttl_s=_TTL_S)
        txn = plane.txn(fence=terms[0])
        txn.create(table, thing("a/after"))
        with pytest.raises(Deposed):
            await txn.commit()
        assert await table.get("a/in-term") is not None and await table.get("a/after") is None


async def lead_nothing(term: Term) -> None:
    """Lead, and return at once."""


async def test_a_new_leader_has_read_all_that_was_written_before(etcd: Etcd, plane: Plane) -> None:
    table = things(plane)
    other = await Plane.open(etcd, plane.keys.prefix, format_version=1)
    others = things(other)
    seen: list[bool] = []
    async with plane, other:
        await create(plane, table, thing("a/1"))

        async def lead(term: Term) -> None:
            seen.append(others.mirror.replica.by_name("a/1") is not None)

        await other.election.run("other", lead, ttl_s=_TTL_S)
    assert seen == [True]


async def test_a_candidate_knows_whom_to_ask_instead(etcd: Etcd, plane: Plane) -> None:
    other = await Plane.open(etcd, plane.keys.prefix, format_version=1)
    async with plane, other, asyncio.TaskGroup() as tasks:
        leads = asyncio.Event()

        async def lead(term: Term) -> None:
            leads.set()
            await asyncio.Event().wait()

        leading = tasks.create_task(plane.election.run("10.0.0.1:7401", lead, ttl_s=_TTL_S))
        await leads.wait()
        waiting = tasks.create_task(other.election.run("10.0.0.2:7401", lead, ttl_s=_TTL_S))
        await until(lambda: other.election.leader is not None)
        leader = other.election.leader
        assert leader is not None and (leader.address, leader.term) == ("10.0.0.1:7401", plane.election.term)
        waiting.cancel()
        leading.cancel()


async def test_a_lease_that_is_lost_ends_the_lead(etcd: Etcd, plane: Plane) -> None:
    ended: list[str] = []

    async def lead(term: Term) -> None:
        lead_key = await plane.read("lead")
        assert lead_key is not None
        await etcd.revoke(lead_key.lease)
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(str(term))

    async with plane, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(plane.election.run("here", lead, ttl_s=_TTL_S))
        await until(lambda: len(ended) >= 2)
        running.cancel()
    assert ended == sorted(set(ended))


async def test_a_term_from_after_a_restore_is_greater_than_any_before() -> None:
    before, after = Term("01a2-7", 500), Term("01b0-7", 3)
    assert before < after and ops.prefix_end(b"a\xff") == b"b"


async def test_a_process_that_is_started_again_does_not_wait_for_the_lease_of_its_former_self(etcd: Etcd, plane: Plane) -> None:
    """The control is a candidate at another address, which does wait."""
    former = await etcd.lease(60)
    key = plane.keys.raw("lead")
    put = await etcd.txn([ops.create_revision_is(key, 0)], [ops.put(key, b"10.0.0.1:7401", former.id)])
    assert put.succeeded
    led: list[Term] = []

    async def lead(term: Term) -> None:
        led.append(term)

    async with plane:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await plane.election.run("10.0.0.2:7401", lead, ttl_s=_TTL_S)
        assert not led
    async with await Plane.open(etcd, plane.keys.prefix, format_version=plane.format_version) as again:
        async with asyncio.timeout(10):
            await again.election.run("10.0.0.1:7401", lead, ttl_s=_TTL_S)
    assert len(led) == 1 and led[0].create_revision > put.header.revision
