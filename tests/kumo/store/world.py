"""Two processes of one plane behind proxies, watchers that wander between them, and a judge with a connection of its own.

Every operation is repeated until it is known what became of it, as a caller would; a model remembers what must then be there.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from kumo.errors import Aborted, AlreadyExists, Unavailable
from kumo.ids import new_uid
from kumo.store.client import Etcd, Patience
from kumo.store.errors import Conflict
from kumo.store.loader import load_table
from kumo.store.plane import Plane
from kumo.store.record import Entry
from kumo.store.table import Table
from kumo.store.watch import Kind
from tests.etcd import Member
from tests.kumo.store.record_pb2 import Thing
from tests.kumo.store.things import thing, things, until
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
    """Follows the table at one process after another, each time from its last token."""

    since: int = 0
    seen: list[Seen] = field(default_factory=list)
    token: str = ""
    synced_at: int = 0
    expired: int = 0
    task: "asyncio.Task[None] | None" = None

    def follow(self, table: Table[Thing]) -> None:
        self.task = asyncio.ensure_future(self._follow(table))

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
        self.model: dict[str, Thing] = {}
        self.count = 0
        self.is_history_torn = False
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
        self.watchers += [Watcher(), Watcher()]
        for watcher, process in zip(self.watchers, self.processes, strict=True):
            watcher.follow(process.table)
            await until(lambda watcher=watcher: watcher.since > 0)

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
        """Repeat until etcd has said what became of it; after a while the proxies are mended."""
        for number in range(200):
            try:
                return await attempt()
            except Unavailable:
                if number >= 1:
                    self.heal()
                await asyncio.sleep(0.02)
        raise AssertionError("the store does not come back")

    async def create(self, who: int, name: str) -> None:
        process, uid = self.processes[who], new_uid()
        self.count += 1
        size = self.count

        async def attempt() -> bool:
            record = thing(name, size=size, color=f"c{size % 3}")
            record.uid = uid
            txn = process.plane.txn()
            txn.create(process.table, record)
            try:
                await txn.commit()
            except AlreadyExists:
                present = await process.table.get_by_uid(uid, min_revision=await process.plane.revision())
                return present is not None
            return True

        is_made = await self.definitely(attempt)
        assert is_made == (name not in self.model)
        await self._note(name)

    async def update(self, who: int, name: str) -> None:
        process = self.processes[who]
        self.count += 1
        size = self.count

        async def attempt() -> None:
            old = await process.table.get(name, min_revision=await process.plane.revision())
            assert (old is None) == (name not in self.model)
            if old is None or old.spec.size == size:
                return
            new = Thing()
            new.CopyFrom(old)
            new.spec.size, new.spec.color = size, f"c{size % 3}"
            txn = process.plane.txn()
            txn.update_intent(process.table, old, new)
            with suppress(Conflict):
                await txn.commit()

        await self.definitely(attempt)
        await self._note(name)
        assert name not in self.model or self.model[name].spec.size == size

    async def report(self, who: int, name: str) -> None:
        process = self.processes[who]
        self.count += 1
        state = f"s{self.count}"

        async def attempt() -> None:
            old = await process.table.get(name, min_revision=await process.plane.revision())
            if old is None:
                return
            txn = process.plane.txn()
            if txn.write_status(process.table, old.uid, Thing(status=Thing.Status(state=state))):
                with suppress(Conflict):
                    await txn.commit()

        await self.definitely(attempt)
        await self._note(name)
        assert name not in self.model or self.model[name].status.state == state

    async def delete(self, who: int, name: str) -> None:
        process = self.processes[who]

        async def attempt() -> None:
            old = await process.table.get(name, min_revision=await process.plane.revision())
            if old is not None:
                txn = process.plane.txn()
                txn.delete(process.table, old)
                with suppress(Conflict):
                    await txn.commit()

        await self.definitely(attempt)
        await self._note(name)
        assert name not in self.model

    async def create_family(self, who: int, names: list[str]) -> None:
        """Several records at one revision: a watch may be left between them, and must not lose the rest."""
        process, uids = self.processes[who], [new_uid() for _ in names]
        self.count += 1

        async def attempt() -> None:
            txn = process.plane.txn()
            for name, uid in zip(names, uids, strict=True):
                record = thing(name, size=self.count)
                record.uid = uid
                txn.create(process.table, record)
            with suppress(AlreadyExists):
                await txn.commit()

        await self.definitely(attempt)
        for name in names:
            await self._note(name)

    async def walk(self, who: int, page_size: int) -> None:
        """A walk over pages with a write in between finds each record that was there all the time exactly once."""
        process = self.processes[who]
        before, names, token = set(self.model), [], ""
        while True:
            page = await self.definitely(lambda token=token: process.table.list(page_size=page_size, page_token=token))
            names += [item.name for item in page.items]
            token = page.next_page_token
            if not token:
                break
            await self.report(1 - who, names[-1] if names else "n0")
        assert names == sorted(set(names)) and before <= set(names) | self._unseen(process)

    def _unseen(self, process: Process) -> set[str]:
        """What a process that is cut off cannot know yet."""
        return set(self.model) - set(process.table.mirror.replica.uid_by_name)

    async def wander(self, which: int, where: int) -> None:
        watcher = self.watchers[which]
        await watcher.leave()
        watcher.follow(self.processes[where].table)

    async def restart_process(self, who: int) -> None:
        process = self.processes[who]
        process.proxy.restore()
        for watcher in self.watchers:
            await watcher.leave()
        await process.stop()
        await self.definitely(process.start)
        for watcher, other in zip(self.watchers, self.processes, strict=True):
            watcher.follow(other.table)

    async def restart_etcd(self) -> None:
        self.member.end()
        await asyncio.to_thread(self.member.start)

    async def freeze_etcd(self) -> None:
        self.member.freeze()
        await asyncio.sleep(0.4)
        self.member.thaw()

    async def compact(self, *, is_gentle: bool) -> None:
        """Forget all history; gently, only once everybody has read it, or else also what others have not."""
        revision = await self._settled(self.judge, self.judged)
        if is_gentle:
            self.heal()
            for process in self.processes:
                await self._settled(process.plane, process.table)
            for watcher in self.watchers:
                await until(lambda watcher=watcher: watcher.synced_at >= revision or self._is_last_seen(watcher))
        else:
            self.is_history_torn = True
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
        assert {name: record.spec.size for name, record in self.model.items()} == {
            item.name: item.spec.size for item in (await self.judged.list()).items
        }
        history = self._history()
        for watcher in self.watchers:
            await until(lambda watcher=watcher: watcher.synced_at >= revision or self._is_last_seen(watcher))
            assert watcher.expired == 0 or self.is_history_torn
            expected = [change for change in history if change[0] > watcher.since]
            if self.is_history_torn:
                assert _last_of_each(watcher.seen) == _last_of_each(expected)
            else:
                assert watcher.seen == expected

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

    def _is_last_seen(self, watcher: Watcher) -> bool:
        history = self._history()
        return bool(history and watcher.seen) and watcher.seen[-1] == history[-1]

    async def _note(self, name: str) -> None:
        """Have the model follow what the store really has."""
        await self._settled(self.judge, self.judged)
        record = await self.definitely(lambda: self.judged.get(name))
        if record is None:
            self.model.pop(name, None)
        else:
            self.model[name] = record

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
