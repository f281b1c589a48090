"""The reconcile loop: properties under arbitrary schedules, and the mutants that they must catch."""

import asyncio
import io
import itertools
import json
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from kumo import log
from kumo.errors import Unavailable
from kumo.loop import Backoff, Loop
from tests.virtual_clock import VirtualClock

KEYS = ("a", "b", "c", "d")


class World:
    """A desired and an observed number a key. Reconciling copies one to the other, in two steps with time between, and may fail."""

    def __init__(self, clock: VirtualClock, fails: Callable[[], bool]) -> None:
        self.desired: Counter[str] = Counter()
        self.observed: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.working: Counter[str] = Counter()
        self.overlapped = False
        self._clock, self._fails = clock, fails

    async def reconcile(self, key: str) -> float | None:
        self.calls[key] += 1
        self.working[key] += 1
        self.overlapped |= self.working[key] > 1
        try:
            seen = self.desired[key]
            await self._clock.sleep(1.0)
            if self._fails():
                raise Unavailable("AGENT_SILENT", "the agent did not answer")
            self.observed[key] = seen
        finally:
            self.working[key] -= 1
        return None

    @property
    def has_converged(self) -> bool:
        return self.observed == self.desired


@asynccontextmanager
async def running(loop: Loop) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(loop.run())
        try:
            yield
        finally:
            task.cancel()


def new_loop(world: World, clock: VirtualClock, kind: type[Loop] = Loop, workers: int = 3) -> Loop:
    return kind("test", world.reconcile, workers=workers, clock=clock, rng=random.Random(0))


STEPS = st.lists(st.tuples(st.sampled_from(KEYS), st.floats(0, 3)), max_size=25)


def converges(steps: list[tuple[str, float]], failures: list[bool], kind: type[Loop] = Loop) -> bool:
    """Change the desired world as `steps` say, some of the calls failing, and tell whether it was reached, never two workers on a key."""

    async def story() -> bool:
        clock = VirtualClock()
        left = list(failures)
        world = World(clock, lambda: bool(left) and left.pop())
        loop = new_loop(world, clock, kind)
        async with running(loop):
            for key, pause_s in steps:
                world.desired[key] += 1
                loop.add(key)
                await clock.advance(pause_s)
            await clock.advance(600)
            return world.has_converged and not world.overlapped and loop.idle

    own_loop = asyncio.new_event_loop()
    try:
        return own_loop.run_until_complete(story())
    finally:
        own_loop.close()


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, failures=st.lists(st.booleans(), max_size=20))
def test_whatever_changes_and_fails_it_converges_and_rests(steps: list[tuple[str, float]], failures: list[bool]) -> None:
    assert converges(steps, failures)


class ForgetsChangeDuringWork(Loop):
    def add(self, key: str, delay_s: float = 0.0) -> None:
        if key not in self._busy:
            super().add(key, delay_s)


class DoesNotRetry(Loop):
    def _failed(self, key: str, error: Exception) -> None:
        self._failing.pop(key, None)


class TwoWorkersOnOneKey(Loop):
    def add(self, key: str, delay_s: float = 0.0) -> None:
        self._make_ready(key, self._clock.monotonic())


@pytest.mark.parametrize("mutant", [ForgetsChangeDuringWork, DoesNotRetry, TwoWorkersOnOneKey])
def test_each_mutant_is_caught(mutant: type[Loop]) -> None:
    rng = random.Random(1)

    def history() -> tuple[list[tuple[str, float]], list[bool]]:
        return [(rng.choice(KEYS), rng.uniform(0, 3)) for _ in range(12)], [rng.random() < 0.5 for _ in range(8)]

    assert any(not converges(*history(), kind=mutant) for _ in range(20))


async def test_back_off_doubles_to_its_most_and_is_forgotten_on_success() -> None:
    clock, times = VirtualClock(), []
    is_broken = True

    async def fail(_key: str) -> None:
        times.append(clock.monotonic())
        if is_broken:
            raise Unavailable("AGENT_SILENT", "the agent did not answer")

    loop = Loop("test", fail, clock=clock, rng=random.Random(0), backoff=Backoff(0.05, 30.0))
    async with running(loop):
        loop.add("a")
        await clock.advance(200)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        for n, gap in enumerate(gaps):
            full = min(30.0, 0.05 * 2**n)
            assert full / 2 <= gap <= full
        assert gaps[-1] >= 15
        assert loop.failures_of("a") == len(times)
        is_broken = False
        await clock.advance(60)
        assert loop.failures_of("a") == 0 and loop.idle
        count = len(times)
        await clock.advance(3600)
        assert len(times) == count


async def test_a_change_cuts_the_wait_of_a_failing_key_but_cannot_spin_it() -> None:
    clock, calls = VirtualClock(), []

    async def fail(key: str) -> None:
        calls.append(clock.monotonic())
        loop.add(key)  # as a reconciler does that writes its failure on the thing, and is woken by that
        raise Unavailable("AGENT_SILENT", "the agent did not answer")

    loop = Loop("test", fail, clock=clock, rng=random.Random(0))
    async with running(loop):
        loop.add("a")
        await clock.advance(60)
        assert 50 <= len(calls) <= 90


async def test_a_key_is_looked_at_again_when_the_reconciler_asks_for_it() -> None:
    clock, times = VirtualClock(), []

    async def wait(_key: str) -> float | None:
        times.append(clock.monotonic())
        return 7.0 if len(times) < 3 else None

    loop = Loop("test", wait, clock=clock)
    async with running(loop):
        loop.add("a", delay_s=5)
        await clock.advance(100)
    assert times == [5.0, 12.0, 19.0]


async def test_everything_is_looked_at_at_the_start_and_then_spread_over_the_resync_time() -> None:
    clock, times = VirtualClock(), []

    async def note(_key: str) -> None:
        times.append(clock.monotonic())

    keys = [f"k{n}" for n in range(100)]
    loop = Loop("test", note, clock=clock, rng=random.Random(0), keys=lambda: keys, resync_s=600)
    async with running(loop):
        await clock.advance(0)
        assert times == [0.0] * 100
        await clock.advance(1199.9)  # the look at the start counts for the first 600 s
    later = times[100:]
    assert len(later) == 100
    assert max(Counter(int(at / 60) for at in later).values()) < 25


async def test_what_was_in_work_when_it_was_cancelled_is_worked_on_at_the_next_run() -> None:
    clock = VirtualClock()
    world = World(clock, lambda: False)
    loop = new_loop(world, clock)
    world.desired["a"] = 1
    async with running(loop):
        loop.add("a")
        await clock.advance(0.5)
    assert not world.has_converged
    async with running(loop):
        await clock.advance(2)
    assert world.has_converged


async def test_no_more_keys_are_in_work_than_there_are_workers() -> None:
    clock = VirtualClock()
    world = World(clock, lambda: False)
    loop = new_loop(world, clock, workers=2)
    most = 0
    async with running(loop):
        for n in range(6):
            loop.add(f"k{n}")
        for _ in range(8):
            await clock.advance(0.5)
            most = max(most, sum(world.working.values()))
    assert most == 2 and sum(world.calls.values()) == 6


@pytest.mark.parametrize(
    "error", [Unavailable("AGENT_SILENT", "the agent did not answer", fix="look at it", host="h1"), ValueError("a bug")]
)
async def test_a_failure_is_logged_once_a_try_with_what_and_why(error: Exception) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log.JsonFormatter("test"))
    logging.getLogger("kumo.loop").addHandler(handler)
    clock = VirtualClock()
    before = REGISTRY.get_sample_value("kumo_reconcile_failures_total", {"loop": "logged"}) or 0

    async def fail(_key: str) -> None:
        raise error

    loop = Loop("logged", fail, clock=clock, backoff=Backoff(first_s=100, most_s=100))
    try:
        async with running(loop):
            loop.add("servers/a")
            await clock.advance(10)
    finally:
        logging.getLogger("kumo.loop").removeHandler(handler)
    (line,) = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert line["key"] == "servers/a" and line["loop"] == "logged" and line["failures"] == 1 and line["again_in_s"] >= 50
    if isinstance(error, Unavailable):
        assert (line["reason"], line["why"], line["fix"], line["host"]) == ("AGENT_SILENT", error.message, "look at it", "h1")
    else:
        assert "a bug" in line["error"] and "in fail" in line["stack"]
    assert REGISTRY.get_sample_value("kumo_reconcile_failures_total", {"loop": "logged"}) == before + 1
