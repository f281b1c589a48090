"""The reconcile loop: a queue of keys that calls one function for each, and calls again until it succeeds.

A key is never worked on twice at once, a change during work is not lost, a failure is logged once and tried again later. It is
told which thing and never what happened; what to do about a thing is the reconciler's.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from kumo.clock import Clock, SystemClock
from kumo.errors import Error
from kumo.log import bound, get_logger
from kumo.origin import ORIGIN, origin_of

log = get_logger(__name__)

DEPTH = Gauge("kumo_reconcile_queue_depth", "Keys that are ready and wait for a worker.", ["loop"])
AGE = Histogram(
    "kumo_reconcile_queue_age_seconds",
    "How long a ready key waited for a worker.",
    ["loop"],
    buckets=(0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600),
)
DURATION = Histogram(
    "kumo_reconcile_duration_seconds",
    "How long one call of the reconciler took.",
    ["loop"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60),
)
FAILURES = Counter("kumo_reconcile_failures_total", "Calls of the reconciler that raised.", ["loop"])

Reconcile = Callable[[str], Awaitable[float | None]]


@dataclass(frozen=True)
class Backoff:
    """How long a failed key waits: `first_s` doubled for each failure in a row up to `most_s`, less up to half by jitter."""

    first_s: float = 0.05
    most_s: float = 30.0
    # A change may cut the wait short, but not below this, or a reconciler that reports its failure on the thing itself would
    # wake itself without pause.
    woken_s: float = 1.0

    def delay_s(self, failures: int, rng: random.Random) -> float:
        full = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 40))
        return full * rng.uniform(0.5, 1.0)


@dataclass
class _Failing:
    failures: int
    since: float
    not_before: float


class Loop:
    """A queue, its workers and its timers. All methods but run() are synchronous and belong to the event loop's thread."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        workers: int = 8,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        backoff: Backoff | None = None,
        keys: Callable[[], Iterable[str]] | None = None,
        resync_s: float = 600.0,
    ) -> None:
        """`reconcile` returns None when settled, or in how many seconds to look again, and raises to be called again.

        `keys` lists all there is: each of them is also woken once in `resync_s`, spread over that time.
        """
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._backoff = backoff or Backoff()
        self._keys = keys
        self._resync_s = resync_s
        self._ready: deque[str] = deque()
        self._ready_since: dict[str, float] = {}
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._due: dict[str, float] = {}
        self._timers: list[tuple[float, str]] = []
        self._failing: dict[str, _Failing] = {}
        self._work_wanted = asyncio.Semaphore(0)
        self._earlier = asyncio.Event()
        self._depth = DEPTH.labels(name)
        self._age, self._duration, self._failures = AGE.labels(name), DURATION.labels(name), FAILURES.labels(name)

    def add(self, key: str, delay_s: float = 0.0) -> None:
        """Have `key` looked at, now or in `delay_s` at the latest. Asking twice before it is looked at is asking once."""
        now = self._clock.monotonic()
        if delay_s > 0:
            self._schedule(key, now + delay_s)
        elif key in self._busy:
            self._again.add(key)
        elif (failing := self._failing.get(key)) is not None and failing.not_before > now:
            self._schedule(key, failing.not_before)
        else:
            self._make_ready(key, now)

    @property
    def idle(self) -> bool:
        """True when nothing is ready and nothing is in work; timers may still run."""
        return not self._ready and not self._busy

    def failures_of(self, key: str) -> int:
        """Return how often in a row `key` has failed, for whoever reports on it."""
        failing = self._failing.get(key)
        return failing.failures if failing else 0

    async def run(self) -> None:
        """Work until cancelled. What was in work then is ready again at the next run()."""
        self._work_wanted = asyncio.Semaphore(len(self._ready))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers):
                tasks.create_task(self._work())
            tasks.create_task(self._watch_timers())
            if self._keys is not None:
                tasks.create_task(self._resync(self._keys))

    async def _work(self) -> None:
        while True:
            await self._work_wanted.acquire()
            key = self._take()
            settled = False
            try:
                await self._call(key)
                settled = True
            finally:
                self._busy.discard(key)
                if not settled or key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _take(self) -> str:
        key = self._ready.popleft()
        self._busy.add(key)
        self._depth.set(len(self._ready))
        self._age.observe(self._clock.monotonic() - self._ready_since.pop(key))
        return key

    async def _call(self, key: str) -> None:
        started = self._clock.monotonic()
        origin = origin_of(key)
        asked = {"request_id": origin} if origin else {}
        token = ORIGIN.set(origin)
        try:
            with bound(loop=self.name, key=key, **asked):
                look_again_s = await self._reconcile(key)
        except Exception as error:  # noqa: BLE001  # whatever it is, the key is tried again
            self._failed(key, error)
        else:
            self._succeeded(key)
            if look_again_s is not None:
                self._schedule(key, self._clock.monotonic() + look_again_s)
        finally:
            ORIGIN.reset(token)
            self._duration.observe(self._clock.monotonic() - started)

    def _failed(self, key: str, error: Exception) -> None:
        now = self._clock.monotonic()
        before = self._failing.get(key)
        failures = before.failures + 1 if before else 1
        delay_s = self._backoff.delay_s(failures, self._rng)
        not_before = now + min(delay_s, self._backoff.woken_s)
        self._failing[key] = _Failing(failures, before.since if before else now, not_before)
        self._schedule(key, now + delay_s)
        self._failures.inc()
        fields: dict[str, object] = {"loop": self.name, "key": key, "failures": failures, "again_in_s": round(delay_s, 2)}
        if isinstance(error, Error):
            log.warning("reconcile failed", reason=error.reason, why=error.message, fix=error.fix, **error.metadata | fields)
        else:
            log.exception("reconcile failed", error=error, **fields)

    def _succeeded(self, key: str) -> None:
        before = self._failing.pop(key, None)
        if before is not None:
            lasted_s = round(self._clock.monotonic() - before.since, 2)
            log.info("reconcile recovered", loop=self.name, key=key, failures=before.failures, lasted_s=lasted_s)

    def _make_ready(self, key: str, now: float) -> None:
        self._due.pop(key, None)
        if key not in self._ready_since:
            self._ready_since[key] = now
            self._ready.append(key)
            self._depth.set(len(self._ready))
            self._work_wanted.release()

    def _schedule(self, key: str, when: float) -> None:
        """Keep the earlier of two times; the later one stays in the heap and is passed over when its turn comes."""
        if key in self._ready_since or self._due.get(key, when + 1) <= when:
            return
        self._due[key] = when
        heapq.heappush(self._timers, (when, key))
        if self._timers[0] == (when, key):
            self._earlier.set()

    async def _watch_timers(self) -> None:
        while True:
            self._earlier.clear()
            now = self._clock.monotonic()
            while self._timers and self._timers[0][0] <= now:
                when, key = heapq.heappop(self._timers)
                if self._due.get(key) == when:
                    del self._due[key]
                    self._wake(key, now)
            await self._earlier_or(self._timers[0][0] - now if self._timers else None)

    def _wake(self, key: str, now: float) -> None:
        if key in self._busy:
            self._again.add(key)
        else:
            self._make_ready(key, now)

    async def _earlier_or(self, delay_s: float | None) -> None:
        """Return when a timer became the first one, or after `delay_s`."""
        if delay_s is None:
            await self._earlier.wait()
            return
        async with asyncio.TaskGroup() as tasks:
            waits = [tasks.create_task(self._earlier.wait()), tasks.create_task(self._clock.sleep(delay_s))]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _resync(self, keys: Callable[[], Iterable[str]]) -> None:
        """Wake everything at once at the start, then everything once in `resync_s`, spread out."""
        for key in keys():
            self.add(key)
        while True:
            started = self._clock.monotonic()
            for key in keys():
                self._schedule(key, started + self._rng.uniform(0, self._resync_s))
            await self._clock.sleep(self._resync_s)
