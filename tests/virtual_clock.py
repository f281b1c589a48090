"""A clock for tests that moves only when nothing else can happen: hours pass in milliseconds, in one fixed order."""

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

_START = datetime(2026, 1, 1, tzinfo=UTC)
# How often the loop goes round with nothing to do before nothing is believed to be left.
_QUIET_ROUNDS = 30


class VirtualClock:
    """Implements kumo.clock.Clock; advance() is called by the test."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> datetime:
        return _START + timedelta(seconds=self._now_s)

    def monotonic(self) -> float:
        return self._now_s

    async def sleep(self, duration_s: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._now_s + max(0.0, duration_s), self._count, future))
        await future

    async def advance(self, duration_s: float) -> None:
        """Let `duration_s` pass: whoever sleeps wakes at its time, and does all it can before the next one does."""
        end = self._now_s + duration_s
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            when, _, future = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, when)
            if not future.done():
                future.set_result(None)
                await self.settle()
        self._now_s = end

    async def settle(self) -> None:
        """Let everything run that can without time passing."""
        for _ in range(_QUIET_ROUNDS):
            await asyncio.sleep(0)
