"""Mirrors one table in this process: lists it once, follows it by one watch, and lets others wait for a revision or follow along.

Reads are answered from here, also while etcd is away. It decides nothing about records.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Generic

from kumo.clock import Clock
from kumo.errors import Unavailable
from kumo.log import get_logger
from kumo.store import ops
from kumo.store.errors import Compacted, StoreFull, StoreReplaced, Unknown
from kumo.store.history import History
from kumo.store.interface import Batch, EtcdClient, Watch
from kumo.store.keys import Keys
from kumo.store.loader import load_table
from kumo.store.metrics import MIRROR_CHANGES, MIRROR_RECORDS, MIRROR_RELISTS
from kumo.store.record import M
from kumo.store.replica import Replica, Step

log = get_logger(__name__)

OnChange = Callable[[str], None]

_WAIT_S = 2.0
_RETRY_S = 0.5
_ASK_AGAIN_S = 0.05


class Mirror(Generic[M]):
    """`replica` is the table as of `revision`; `history` has the steps that led there since the process began."""

    def __init__(self, etcd: EtcdClient, keys: Keys, table: str, replica: Callable[[], Replica[M]], *, clock: Clock) -> None:
        self.etcd, self.keys, self.table, self.clock = etcd, keys, table, clock
        self.new_replica = replica
        self.replica = replica()
        # Few at a time: each reads the table anew, as it was.
        self.replays = asyncio.Semaphore(2)
        self.history = History(0)
        self._loaded = asyncio.Event()
        self._moved = asyncio.Event()
        # Who waits for which revision, the least first; the count only tells equal ones apart.
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = itertools.count()
        self._is_asking = False
        self._callbacks: list[OnChange] = []
        self._watch: Watch | None = None
        self.is_running = False

    @property
    def revision(self) -> int:
        return self.replica.revision

    def on_change(self, callback: OnChange) -> Callable[[], None]:
        """Call `callback` with the uid of each record that changes, and now with those there are. Returns what ends it."""
        self._callbacks.append(callback)
        for uid in list(self.replica.entries):
            callback(uid)
        return lambda: self._callbacks.remove(callback)

    async def run(self) -> None:
        """Load and follow; never returns. Once it has ended, nobody waits here any more."""
        self.is_running = True
        try:
            await self._keep()
        finally:
            self.is_running = False
            self._notify()

    async def _keep(self) -> None:
        while True:
            try:
                await self._load()
                await self._follow()
            except Compacted as error:
                log.info("mirror lists again", table=self.table, compacted=error.revision, revision=self.revision)
                MIRROR_RELISTS.labels(self.table).inc()
            except StoreReplaced:
                # What this process remembers is of another store: it has to start anew, and ends by this.
                raise
            except Unavailable as error:
                log.warning("mirror cannot load", table=self.table, why=error.message)
                await self.clock.sleep(_RETRY_S)

    async def wait(self, revision: int = 0, timeout_s: float = _WAIT_S) -> None:
        """Return once the mirror is loaded and at least at `revision`. Raises Unavailable when that takes too long."""
        if self._loaded.is_set() and self.revision >= revision:
            return  # what nearly every read finds; a timer each would cost more than the read itself
        try:
            async with asyncio.timeout(timeout_s):
                await self._loaded.wait()
                while self.revision < revision:
                    # One asks for all: many that ask would keep etcd and this process busy with nothing else.
                    await (self._reached(revision) if self._is_asking else self._ask_until(revision))
        except TimeoutError as error:
            message = f"the mirror of {self.table} is at revision {self.revision}, not yet at {revision}"
            raise Unavailable("MIRROR_BEHIND", message, fix="try again in a second", table=self.table) from error

    async def moved(self) -> None:
        """Return after the next step or progress. Raises Unavailable MIRROR_ENDED when none can come any more."""
        if self.is_running:
            await self._moved.wait()
        if not self.is_running:
            message = f"the mirror of {self.table} has ended at revision {self.revision}"
            raise Unavailable("MIRROR_ENDED", message, fix="try again: the process is ending", table=self.table)

    async def _reached(self, revision: int) -> None:
        """Return when the mirror is at `revision`, or when somebody has to ask in place of the one that did."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (revision, next(self._count), waiter))
        await waiter

    async def _ask_until(self, revision: int) -> None:
        self._is_asking = True
        try:
            while self.revision < revision:
                await self._wait_a_little(revision)
        finally:
            self._is_asking = False
            self._wake_one()

    def _wake_one(self) -> None:
        """Wake the first that waits; one that gave up is passed over."""
        while self._waiters:
            _, _, waiter = heapq.heappop(self._waiters)
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _wait_a_little(self, revision: int) -> None:
        """A change of this very table arrives by itself; for a change elsewhere etcd has to be asked how far this watch is."""
        if await self._moves_within(_ASK_AGAIN_S / 10) or self.revision >= revision:
            return
        if self.etcd.progress_is_exact:
            if self._watch is not None:
                self._watch.ask_progress()
        else:
            await self.tick()
        await self._moves_within(_ASK_AGAIN_S)

    async def _moves_within(self, duration_s: float) -> bool:
        try:
            async with asyncio.timeout(duration_s):
                await self.moved()
                return True
        except TimeoutError:
            return False

    async def tick(self) -> None:
        """Where progress answers lie, write something that the watch has to deliver after all that came before."""
        try:
            await self.etcd.txn(success=[ops.put(self.keys.tick(self.table), b"")])
        except (Unknown, StoreFull):
            return

    async def _load(self) -> None:
        items, revision = await load_table(self.etcd, self.keys, self.table)
        loaded = self.new_replica()
        loaded.load(items, revision)
        before, self.replica = self.replica, loaded
        if self._loaded.is_set():
            self._publish(before.difference(loaded))
        else:
            self.history = History(revision)
            self._loaded.set()
            for uid in loaded.entries:
                self._tell(uid)
            self._notify()

    async def _follow(self) -> None:
        prefix = self.keys.records(self.table)
        async with self.etcd.watch(prefix, ops.prefix_end(prefix), self.revision + 1) as watch:
            self._watch = watch
            try:
                async for batch in watch:
                    self._apply(batch)
            finally:
                self._watch = None

    def _apply(self, batch: Batch) -> None:
        for step in self.replica.apply(batch.events):
            self._publish(step)
        self.replica.advance(batch.revision)
        self._notify()

    def _publish(self, step: Step) -> None:
        if step.deltas:
            self.history.append(step)
            MIRROR_CHANGES.labels(self.table).inc(len(step.deltas))
        for delta in step.deltas:
            self._tell(delta.uid)
        self._notify()

    def _tell(self, uid: str) -> None:
        for callback in self._callbacks:
            callback(uid)

    def _notify(self) -> None:
        MIRROR_RECORDS.labels(self.table).set(len(self.replica.entries))
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        while self._waiters and (self._waiters[0][0] <= self.revision or not self.is_running):
            self._wake_one()
