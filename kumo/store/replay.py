"""Reads steps that a mirror no longer has, or never had, out of etcd's own history, and then goes on with the mirror's."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from kumo.store import ops
from kumo.store.errors import Compacted
from kumo.store.history import FellBehind
from kumo.store.loader import load_table
from kumo.store.metrics import WATCH_REPLAYS
from kumo.store.mirror import Mirror
from kumo.store.record import M
from kumo.store.replica import Step
from kumo.store.token import Position, expired

_ASK_AGAIN_S = 0.05


@dataclass(frozen=True)
class CaughtUp:
    """All steps up to `revision` were yielded."""

    revision: int


async def follow(mirror: Mirror[M], position: Position, idle_s: float) -> AsyncGenerator[Step | CaughtUp, None]:
    """Yield every step after `position.revision`; CaughtUp once those that were so far are out, and after `idle_s` without any.

    Raises Aborted RESUME_TOKEN_EXPIRED, or FellBehind when the reader is too slow.
    """
    try:
        number = mirror.history.number_after(position)
    except FellBehind:
        async with mirror.replays, aclosing(_replay(mirror, position.revision)) as replayed:
            async for item in replayed:
                if isinstance(item, Step):
                    yield item
                position = Position(item.revision)
        number = mirror.history.number_after(position)
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


async def _replay(mirror: Mirror[M], revision: int) -> AsyncGenerator[Step | CaughtUp, None]:
    """Yield the steps after `revision` until the mirror has the rest, then where that is."""
    WATCH_REPLAYS.labels(mirror.table).inc()
    replica, prefix = mirror.new_replica(), mirror.keys.records(mirror.table)
    try:
        items, _ = await load_table(mirror.etcd, mirror.keys, mirror.table, revision)
        replica.load(items, revision)
        async with mirror.etcd.watch(prefix, ops.prefix_end(prefix), revision + 1) as watch:
            while not _covers(mirror, replica.revision):
                if mirror.etcd.progress_is_exact:
                    watch.ask_progress()
                else:
                    await mirror.tick()
                try:
                    async with asyncio.timeout(_ASK_AGAIN_S):
                        batch = await anext(watch)
                except TimeoutError:
                    continue
                for step in replica.apply(batch.events):
                    yield step
                replica.advance(batch.revision)
    except Compacted as error:
        raise expired(f"history up to revision {error.revision or revision} is compacted") from error
    yield CaughtUp(replica.revision)


def _covers(mirror: Mirror[M], revision: int) -> bool:
    try:
        mirror.history.number_after(Position(revision))
    except FellBehind:
        return False
    return True
