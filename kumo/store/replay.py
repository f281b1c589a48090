"""Reads steps that a mirror no longer has, or never had, out of etcd's own history, and then goes on with the mirror's."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from kumo.errors import Unavailable
from kumo.store import ops
from kumo.store.errors import Compacted
from kumo.store.history import FellBehind
from kumo.store.interface import Batch, Watch
from kumo.store.loader import load_table
from kumo.store.metrics import WATCH_REPLAYS
from kumo.store.mirror import Mirror
from kumo.store.record import M
from kumo.store.replica import Step
from kumo.store.token import Position, expired

_ASK_AGAIN_S = 0.05
_REPLAY_S = 15.0
_MOST_STEPS = 5_000


@dataclass(frozen=True)
class CaughtUp:
    """All steps up to `revision` were yielded."""

    revision: int


async def follow(mirror: Mirror[M], position: Position, idle_s: float) -> AsyncGenerator[Step | CaughtUp, None]:
    """Yield every step after `position.revision`; CaughtUp once those that were so far are out, and after `idle_s` without any.

    Raises Aborted RESUME_TOKEN_EXPIRED, or FellBehind when the reader is too slow.
    """
    while (number := _number_after(mirror, position.revision)) is None:
        # Read at etcd's speed and not at this reader's, who would else keep others from being served.
        async with mirror.replays:
            steps, reached = await _replay(mirror, position.revision)
        for step in steps:
            yield step
        position = Position(reached)
    target, said = mirror.history.end, mirror.revision
    while number < target:
        yield mirror.history.step(number)
        number += 1
    yield CaughtUp(said)
    say_at = mirror.clock.monotonic() + idle_s
    while True:
        while number < mirror.history.end:
            step = mirror.history.step(number)
            number += 1
            said = step.revision
            say_at = mirror.clock.monotonic() + idle_s
            yield step
        try:
            async with asyncio.timeout(say_at - mirror.clock.monotonic()):
                # Between the last look at the history and this wait nothing is awaited, so no step is missed.
                if number == mirror.history.end:
                    await mirror.moved()
        except TimeoutError:
            if number == mirror.history.end and mirror.revision > said:
                said = mirror.revision
                yield CaughtUp(said)
            say_at = mirror.clock.monotonic() + idle_s


async def _replay(mirror: Mirror[M], revision: int) -> tuple[list[Step], int]:
    """Return the steps after `revision` until the mirror has the rest, or as many as are kept at once, and how far they lead.

    Raises Aborted RESUME_TOKEN_EXPIRED, or Unavailable if etcd does not answer.
    """
    WATCH_REPLAYS.labels(mirror.table).inc()
    replica, prefix = mirror.new_replica(), mirror.keys.records(mirror.table)
    steps: list[Step] = []
    try:
        async with asyncio.timeout(_REPLAY_S):
            items, _ = await load_table(mirror.etcd, mirror.keys, mirror.table, revision)
            replica.load(items, revision)
            async with mirror.etcd.watch(prefix, ops.prefix_end(prefix), revision + 1) as watch:
                while _number_after(mirror, replica.revision) is None:
                    if (batch := await _next_batch(mirror, watch)) is None:
                        continue
                    for step in replica.apply(batch.events):
                        steps.append(step)
                        if len(steps) >= _MOST_STEPS:
                            return steps, step.revision
                    replica.advance(batch.revision)
    except Compacted as error:
        raise expired(f"history up to revision {error.revision or revision} is compacted") from error
    except TimeoutError as error:
        raise Unavailable("HISTORY_SLOW", f"etcd does not tell what happened since revision {revision}", fix="try again") from error
    return steps, replica.revision


async def _next_batch(mirror: Mirror[M], watch: Watch) -> Batch | None:
    """Return what comes next, having asked how far the watch is; None if nothing comes soon."""
    if mirror.etcd.progress_is_exact:
        watch.ask_progress()
    else:
        await mirror.tick()
    try:
        async with asyncio.timeout(_ASK_AGAIN_S):
            return await anext(watch)
    except TimeoutError:
        return None


def _number_after(mirror: Mirror[M], revision: int) -> int | None:
    """Return the number of the mirror's first step after `revision`, or None if it has not all of them."""
    try:
        return mirror.history.number_after(Position(revision))
    except FellBehind:
        return None
