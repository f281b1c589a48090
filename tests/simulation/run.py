"""Runs seeds. What a play begins with is made once; each seed is a fork of the process it lives in: all begin alike, none sees another.

A seed's log is every commit and every call, in order: two runs of one seed have the same, or something is not under control.
"""

import asyncio
import contextlib
import fcntl
import gc
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from deploy.namespace import CLONE_NEWNS, MS_REC, MS_SLAVE, mount, unshare
from kumo.store.etcd import kv_pb2
from tests.simulation import sources, witness
from tests.simulation.loop import VirtualLoop
from tests.simulation.machines import Broken, Machines
from tests.simulation.wire import Wire
from tests.simulation.world import make_certificates

REST_S = 120.0
LONGEST_S = 400.0
LONGEST_CPU_S = 30.0
AT_ONCE = 2
_now = time.perf_counter  # the machine's, also once time is virtual


@dataclass(frozen=True)
class Outcome:
    """What became of one run. `broken` says what did not hold; `log` is the digest of all that happened."""

    seed: int
    broken: tuple[str, ...]
    log: str
    commits: int
    virtual_s: float
    wall_s: float
    story: tuple[str, ...] = ()


class Log:
    """The digest of commits and calls."""

    def __init__(self, world: Machines) -> None:
        self._digest = hashlib.sha256()
        self._world = world
        self.commits = 0
        self.lines: list[str] | None = None
        world.data.on_commit.append(self.committed)
        world.wire.on_call = self.called

    def committed(self, revision: int, events: list[kv_pb2.Event]) -> None:
        self.commits += 1
        for event in events:
            value = hashlib.sha256(event.kv.value).hexdigest()[:8]
            self._note(f"{revision} {'-' if event.type else '+'}{event.kv.key.decode()} {value}")

    def called(self, client: str, path: str) -> None:
        self._note(f"{client} {path}")

    def _note(self, text: str) -> None:
        line = f"{self._world.loop.time():.6f} {text}"
        self._digest.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    def digest(self) -> str:
        return self._digest.hexdigest()[:16]


class Play(Protocol):
    """What is simulated: machines, how they become what every run begins with, and what one run does to them."""

    def build(self, loop: VirtualLoop, wire: Wire, rng: random.Random, folder: Path, shared: Path) -> Any: ...

    async def prepare(self, world: Any) -> None: ...

    async def tell(self, world: Any, rng: random.Random) -> list[str]:
        """Return what did not hold. Raises Broken for what can never come right."""


async def at_rest(world: Machines, unsettled: Callable[[], Awaitable[str]]) -> None:
    """Wait until nothing is unsettled. Raises Broken with what still is."""
    end = world.loop.time() + REST_S
    while what := await unsettled():
        if world.loop.time() > end:
            raise Broken(f"not settled: {what}")
        await asyncio.sleep(0.3)


async def _told(play: Play, world: Machines, seed: int, lines: list[str] | None) -> Outcome:
    """One run, from what was prepared to the last thing that was looked at."""
    began = _now()
    log = Log(world)
    log.lines = lines
    broken: list[str] = []
    try:
        async with asyncio.timeout(LONGEST_S):
            broken += await play.tell(world, random.Random(seed))
    except TimeoutError:
        broken.append("the story did not come to its end")
    except Broken as error:
        broken.append(str(error))
    except BaseExceptionGroup as group:
        broken += [f"{error!r}" for error in group.exceptions]
    return Outcome(seed, tuple(broken), log.digest(), log.commits, world.loop.time(), _now() - began, tuple(world.events))


# ---- processes


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="kumo-simulation-", dir="/dev/shm"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def run(play: Play, seeds: Iterable[int], *, mutate: Callable[[], None] | None = None, lines: bool = False) -> list[Outcome]:
    """Run each seed, in a process of its own each, two at a time. `mutate` breaks the product first."""
    with _folder() as folder:
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            _be_template(play, folder, list(seeds), writing, mutate, lines)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            text = pipe.read().decode()
        _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"the simulation did not begin: {text}")
    return sorted((_outcome(line) for line in text.splitlines()), key=lambda outcome: outcome.seed)


def _outcome(line: str) -> Outcome:
    kept: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(line).items()}
    return Outcome(**kept)


def _be_template(play: Play, folder: Path, seeds: list[int], writing: int, mutate: Callable[[], None] | None, lines: bool) -> None:
    """Prepare, and fork for each seed. Never returns."""
    code = 1
    try:
        logging.disable(logging.CRITICAL)
        sys.unraisablehook = lambda _: None
        make_certificates(folder / "pki")
        gc.collect()
        gc.freeze()
        gc.disable()
        loop = VirtualLoop(0)
        rng = random.Random(0)
        wire = Wire(loop, rng)
        sources.install(loop, wire, rng)
        if mutate is not None:
            mutate()
        witness.install(loop)
        asyncio.set_event_loop(loop)
        (folder / "state").mkdir()
        world = play.build(loop, wire, rng, folder / "state", folder / "pki")
        loop.run_until_complete(_template(play, world, seeds, writing, lines))
        code = 0
    except BaseException as error:  # noqa: BLE001  # it is told to whoever asked
        os.write(writing, f"{error!r}"[:2000].encode())
    finally:
        os._exit(code)


async def _template(play: Play, world: Machines, seeds: list[int], writing: int, lines: bool) -> None:
    keeping = asyncio.ensure_future(world.wire.keep())
    await play.prepare(world)
    world.events.clear()
    world.data.on_commit.clear()
    running = 0
    for seed in seeds:
        if running == AT_ONCE:
            os.wait()  # noqa: ASYNC222  # nothing else shall happen here meanwhile
            running -= 1
        if not os.fork():
            await _be_seed(play, world, seed, writing, lines)
        running += 1
    while running:
        os.wait()  # noqa: ASYNC222
        running -= 1
    keeping.cancel()


async def _be_seed(play: Play, world: Machines, seed: int, writing: int, lines: bool) -> None:
    """Have files of one's own under the old names, and chance of one's own; tell the story; end."""
    asyncio._set_running_loop(world.loop)  # a fork has none until it is told

    def end(outcome: Outcome) -> None:
        _write_whole(world.folder.with_name("lock"), writing, json.dumps(asdict(outcome)).encode() + b"\n")
        os._exit(0)

    def give_up(_number: int, frame: FrameType | None) -> None:
        where = traceback.format_stack(frame, 4)
        end(Outcome(seed, (f"it computes for ever: {' '.join(where)}",), "", 0, world.loop.time(), LONGEST_CPU_S))

    signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_CPU_S)
    try:
        unshare(CLONE_NEWNS)
        mount("none", "/", flags=MS_REC | MS_SLAVE)
        there = world.folder.with_name("there")
        there.mkdir(exist_ok=True)
        mount("tmpfs", str(there), "tmpfs", 0, "size=256m")
        shutil.copytree(world.folder, there / "state", symlinks=True)
        mount(str(there / "state"), str(world.folder), "", 4096)
        world.rng.seed(seed)
        world.loop.rng.seed(seed + 1)
        noted: list[str] | None = [] if lines else None
        outcome = await _told(play, world, seed, noted)
        end(replace(outcome, story=(*outcome.story, *(noted or ())) if lines or outcome.broken else ()))
    except BaseException as error:  # noqa: BLE001  # a run that cannot be is a run that failed
        end(Outcome(seed, (f"the run failed: {error!r}",), "", 0, world.loop.time(), 0.0))


def _write_whole(lock: Path, pipe: int, data: bytes) -> None:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        while data:
            data = data[os.write(pipe, data) :]
