"""Two processes of one plane behind proxies, watchers that wander between them, and a judge with a connection of its own.

Every operation is repeated until it is known what became of it, as a caller would; a model remembers what must then be there.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import pytest

from kumo.errors import Aborted, AlreadyExists, Unavailable
from kumo.ids import new_uid
from kumo.store.client import Etcd, Patience
from kumo.store.loader import load_table
from kumo.store.plane import Plane
from kumo.store.record import Entry
from kumo.store.table import Table
from kumo.store.txn import Txn
from kumo.store.watch import Kind
from tests.etcd import Member
from tests.kumo.store.record_pb2 import Thing
from tests.kumo.store.things import thing, things, until
from tests.stacks import waiting
from tests.tcp_proxy import Proxy, proxy_to

T = TypeVar("T")
# What a watcher saw: revision, kind, name, size, state.
Seen = tuple[int, str, str, int, str]

_PATIENCE = Patience(per_try_s=0.3, request_s=0.6, silence_s=0.6)


@dataclass
class Process:
    """What one controller is to the store; it can be restarted and then remembers nothing."""

    proxy: Proxy
    prefix: str
    plane: Plane = field(init=False)
    table: Table[Thing] = field(init=False)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        etcd = await self._stack.enter_async_context(Etcd([self.proxy.address], patience=_PATIENCE, rng=random.Random(1)))
        self.plane = await Plane.open(etcd, self.prefix, format_version=1)
        self.table = things(self.plane)
        await self._stack.enter_async_context(self.plane)
        await self.table.mirror.wait(0, 10.0)

    async def stop(self) -> None:
        await self._stack.aclose()


@dataclass
class Watcher:
    """Follows the table at one process after another, each time from its last token. `at` is where it is, or was last."""

    at: Process
    since: int = 0
    seen: list[Seen] = field(default_factory=list)
    token: str = ""
    synced_at: int = 0
    expired: int = 0
    task: "asyncio.Task[None] | None" = None

    def has_reached(self, revision: int) -> bool:
        return max(self.synced_at, self.seen[-1][0] if self.seen else 0) >= revision

    def follow(self, process: Process) -> None:
        self.at = process
        self.task = asyncio.ensure_future(self._follow(process.table))

    async def leave(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task

    async def _follow(self, table: Table[Thing]) -> None:
        while True:
            try:
                async with aclosing(table.watch(self.token or None, bookmark_s=0.1)) as changes:
                    async for change in changes:
                        if change.kind is Kind.EXISTING:
                            continue
                        self.token = change.resume_token
                        if change.kind is Kind.SYNCED:
                            self.synced_at = change.revision
                            self.since = self.since or change.revision
                        elif change.record is not None:
                            record = change.record
                            self.seen.append((change.revision, change.kind.value, record.name, record.spec.size, record.status.state))
            except Aborted as error:
                if error.reason == "RESUME_TOKEN_EXPIRED":
                    self.expired += 1
                    self.token, self.since, self.seen = "", 0, []
                else:
                    self.token = error.metadata["resume_token"]
            except Unavailable:
                await asyncio.sleep(0.05)


class World:
    """Made anew for each run of the state machine, on an etcd that lives longer."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.prefix = f"/world/{new_uid()}"
        # Size and state of what must be there, by name.
        self.model: dict[str, tuple[int, str]] = {}
        self.count = 0
        self.is_history_torn = False
        self.before_commit: Callable[[], None] | None = None
        self.processes: list[Process] = []
        self.watchers: list[Watcher] = []
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        self._judge_etcd = await self._stack.enter_async_context(Etcd([self.member.address], patience=_PATIENCE))
        self.judge = await self.definitely(lambda: Plane.open(self._judge_etcd, self.prefix, format_version=1))
        self.judged = things(self.judge)
        await self._stack.enter_async_context(self.judge)
        await self.judged.mirror.wait(0, 10.0)
        self.processes += [Process(await self._stack.enter_async_context(proxy_to(self.member.port)), self.prefix) for _ in range(2)]
        for process in self.processes:
            await process.start()
        self.watchers += [Watcher(process) for process in self.processes]
        for watcher in self.watchers:
            watcher.follow(watcher.at)
            await until(partial(watcher.has_reached, 1))

    async def stop(self) -> None:
        self.heal()
        for watcher in self.watchers:
            await watcher.leave()
        for process in self.processes:
            await process.stop()
        await self._stack.aclose()

    def heal(self) -> None:
        for process in self.processes:
            process.proxy.restore()

    async def definitely(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat a read until etcd answers; the proxies are mended once it has repeated itself in vain."""
        for _ in range(200):
            try:
                return await attempt()
            except Unavailable:
                self.heal()
                await asyncio.sleep(0.02)
        raise AssertionError("the store does not come back")

    async def commit(self, txn: Txn) -> None:
        """Commit once: whatever is cut or kept back meanwhile, what became of it has to be known. The proxies are mended in time."""
        if self.before_commit is not None:
            self.before_commit()
        healing = asyncio.get_running_loop().call_later(0.45, self.heal)
        try:
            await txn.commit()
        finally:
            healing.cancel()

    async def act(self, who: int, what: str, name: str) -> None:
        """Do one thing to one record, if it is there to do it to; then the store must be as the model says."""
        process = self.processes[who]
        self.count += 1
        size, state = self.count, f"s{self.count}"
        revision = await self.definitely(process.plane.revision)
        old = await self.definitely(lambda: process.table.get(name, min_revision=revision))
        assert (old is not None) == (name in self.model)
        txn = process.plane.txn()
        if what == "create":
            txn.create(process.table, thing(name, size=size, color=f"c{size % 3}"))
            if old is not None:
                with pytest.raises(AlreadyExists):
                    await self.commit(txn)
                return
            self.model[name] = (size, "")
        elif old is None:
            return
        elif what == "update":
            new = Thing()
            new.CopyFrom(old)
            new.spec.size, new.spec.color = size, f"c{size % 3}"
            txn.update_intent(process.table, old, new)
            self.model[name] = (size, self.model[name][1])
        elif what == "report":
            assert txn.write_status(process.table, old.uid, Thing(status=Thing.Status(state=state)))
            self.model[name] = (self.model[name][0], state)
        else:
            txn.delete(process.table, old)
            del self.model[name]
        await self.commit(txn)

    async def create_family(self, who: int, names: list[str]) -> None:
        """Several records at one revision: a watch may be left between them, and must not lose the rest."""
        process = self.processes[who]
        self.count += 1
        txn = process.plane.txn()
        for name in names:
            txn.create(process.table, thing(name, size=self.count))
        if set(names) & set(self.model):
            with pytest.raises(AlreadyExists):
                await self.commit(txn)
        else:
            await self.commit(txn)
            self.model |= dict.fromkeys(names, (self.count, ""))

    async def while_away(self, who: int, acts: list[tuple[str, str]], *, is_restarted: bool, is_compacted: bool) -> None:
        """Cut one process off, or end it; let things happen; compact what it has not seen; let it come back."""
        process = self.processes[who]
        # Whoever wandered here loses the watch too, and nobody else does.
        guests = [watcher for watcher in self.watchers if watcher.at is process]
        if is_restarted:
            for watcher in guests:
                await watcher.leave()
            await process.stop()
        else:
            process.proxy.cut()
        for what, name in acts:
            await self.act(1 - who, what, name)
        if is_compacted:
            self.is_history_torn = True
            revision = await self._settled(self.judge, self.judged)
            await self.definitely(lambda: self._judge_etcd.compact(revision))
        process.proxy.restore()
        if is_restarted:
            await self.definitely(process.start)
            for watcher in guests:
                watcher.follow(process)

    async def lose_answers(self, who: int, what: str, name: str, *, is_read: bool, is_cut: bool) -> None:
        """Act while the answers of etcd do not come, to the read already or to the write, or the connection breaks before they do."""
        proxy = self.processes[who].proxy

        def lose() -> None:
            proxy.hold_answers()
            if is_cut:
                asyncio.get_running_loop().call_later(0.2, proxy.break_all)

        if is_read:
            lose()
        else:
            self.before_commit = lose
        await self.act(who, what, name)
        self.before_commit = None
        self.heal()

    async def shake(self, acts: list[tuple[int, str, str]], *, is_killed: bool) -> None:
        """Let things happen while etcd is killed and started again, or frozen for a while."""

        async def hurt() -> None:
            if is_killed:
                self.member.end()
                await asyncio.to_thread(self.member.start)
            else:
                self.member.freeze()
                await asyncio.sleep(0.4)
                self.member.thaw()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hurt())
            for act in acts:
                await self.act(*act)

    async def walk(self, who: int, page_size: int) -> None:
        """A walk over pages with a write between them finds each record that was there all the time exactly once."""
        process = self.processes[who]
        await self._settled(process.plane, process.table)
        before, names, token = set(self.model), list[str](), ""
        while True:
            page = await process.table.list(page_size=page_size, page_token=token)
            names += [item.name for item in page.items]
            token = page.next_page_token
            if not token:
                break
            await self.act(1 - who, "create", f"m{self.count % 4}")
        assert names == sorted(set(names)) and before <= set(names)

    async def wander(self, which: int, where: int) -> None:
        watcher = self.watchers[which]
        await watcher.leave()
        watcher.follow(self.processes[where])

    async def compact(self) -> None:
        """Forget all history once everybody has read it."""
        self.heal()
        revision = await self._settled(self.judge, self.judged)
        for process in self.processes:
            await self._settled(process.plane, process.table)
        for watcher in self.watchers:
            await until(partial(watcher.has_reached, revision))
        await self.definitely(lambda: self._judge_etcd.compact(revision))

    async def check(self) -> None:
        """Everybody has the same, and each watcher has seen exactly the history that the judge saw."""
        self.heal()
        items, _ = await self.definitely(lambda: load_table(self._judge_etcd, self.judge.keys, self.judged.name))
        revision = await self._settled(self.judge, self.judged)
        fresh = self.judged.mirror.new_replica()
        fresh.load(items, revision)
        for process in self.processes:
            await self._settled(process.plane, process.table)
            replica = process.table.mirror.replica
            assert replica.entries == fresh.entries and replica.names == fresh.names == sorted(self.model)
            for color in ("c0", "c1", "c2"):
                assert _uids(replica.find("color", color)) == _uids(fresh.find("color", color))
        assert self.model == {item.name: (item.spec.size, item.status.state) for item in (await self.judged.list()).items}
        history = self._history()
        for watcher in self.watchers:
            await until(partial(watcher.has_reached, revision))
            assert watcher.expired == 0 or self.is_history_torn
            expected = [change for change in history if change[0] > watcher.since]
            with suppress(TimeoutError):
                await until(partial(self._is_told, watcher, expected))
            assert self._is_told(watcher, expected), f"seen {watcher.seen}\nexpected {expected}"

    def _is_told(self, watcher: Watcher, expected: list[Seen]) -> bool:
        """Over a gap in the history only its result is told, so that even the last change may be another than the judge's."""
        if self.is_history_torn:
            return _last_of_each(watcher.seen) == _last_of_each(expected)
        return watcher.seen == expected

    def _history(self) -> list[Seen]:
        changes: list[Seen] = []
        mirror = self.judged.mirror
        for number in range(mirror.history.end):
            step = mirror.history.step(number)
            assert not step.is_bridge
            for delta in step.deltas:
                kind = "created" if delta.before is None else "updated" if delta.after is not None else "deleted"
                entry = delta.after or delta.before
                assert entry is not None
                record = self.judged.joined(entry)
                changes.append((step.revision, kind, record.name, record.spec.size, record.status.state))
        return changes

    async def standing(self) -> str:
        """Say how far everybody is and what every task waits for, for a step that waited in vain."""
        if not self.watchers:
            return waiting()
        lines = [f"judge: mirror at {self.judged.mirror.revision}, silent for {self.judge.silent_s():.1f} s"]
        for who, process in enumerate(self.processes):
            mirror = process.table.mirror
            lines.append(
                f"process {who}: mirror at {mirror.revision}, history to {mirror.history.end}, "
                f"running: {mirror.is_running}, silent for {process.plane.silent_s():.1f} s"
            )
        for which, watcher in enumerate(self.watchers):
            last = watcher.seen[-1:]
            lines.append(f"watcher {which}: at process {self.processes.index(watcher.at)}, synced at {watcher.synced_at}, last saw {last}")
        return "\n".join([*lines, waiting()])

    async def _settled(self, plane: Plane, table: Table[Thing]) -> int:
        revision = await self.definitely(plane.revision)
        await self.definitely(lambda: table.mirror.wait(revision, 5.0))
        return revision


def _uids(entries: list[Entry]) -> set[str]:
    return {entry.uid for entry in entries}


def _last_of_each(changes: list[Seen]) -> dict[str, tuple[str, int, str]]:
    """What a reader of changes believes in the end: which records are there, and how."""
    believed: dict[str, tuple[str, int, str]] = {}
    for _, kind, name, size, state in changes:
        if kind == "deleted":
            believed.pop(name, None)
        else:
            believed[name] = ("there", size, state)
    return believed
