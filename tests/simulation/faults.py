"""Whatever may happen to machines, a few things at a time, as a seed says. Each thing ends by itself."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.simulation.machines import Machines

Act = Callable[[], Awaitable[None]]


class Faults:
    """`pace_s` is the mean time between two of them. `more` adds what only some machines can suffer, each with its weight."""

    def __init__(self, world: Machines, rng: random.Random, pace_s: float, more: list[tuple[Act, int]] | None = None) -> None:
        self.world, self.rng, self.pace_s = world, rng, pace_s
        self._acts: list[tuple[Act, int]] = [
            (self.crash, 5),
            (self.pause, 4),
            (self.cut, 4),
            (self.cut_and_compact, 2),
            (self.lose, 4),
            (self.slow, 1),
            (self.compact, 3),
            *(more or []),
        ]

    async def happen(self, until_s: float) -> None:
        acts, weights = [act for act, _ in self._acts], [weight for _, weight in self._acts]
        async with asyncio.TaskGroup() as tasks:
            while self.world.loop.time() < until_s:
                await asyncio.sleep(self.rng.expovariate(1 / self.pace_s))
                (act,) = self.rng.choices(acts, weights)
                tasks.create_task(self._during(act))

    async def _during(self, act: Act) -> None:
        await act()

    def _up(self) -> list[str]:
        return [one.name for one in self.world.processes.values() if one.node is not None and one.node.is_alive and not one.node.is_paused]

    async def crash(self) -> None:
        if not (up := self._up()):
            return
        name = self.rng.choice(up)
        self.world.say(f"fault: kill -9 {name}")
        self.world.crash(name)
        await asyncio.sleep(self.rng.choice((0.05, 0.3, 2.5)))
        self.world.start(name)

    async def pause(self) -> None:
        if not (up := [one for one in self._up() if one != "etcd"]):
            return
        name = self.rng.choice(up)
        node = self.world.processes[name].node
        assert node is not None
        self.world.say(f"fault: SIGSTOP {name}")
        self.world.loop.pause(node)
        await asyncio.sleep(self.rng.choice((0.4, 2.5, 6.0)))
        self.world.say(f"fault: SIGCONT {name}")
        self.world.loop.resume(node)

    async def cut(self) -> None:
        one, other = self.rng.sample(self.world.machines, 2)
        await self._cut(one, other)

    async def cut_and_compact(self) -> None:
        """Have somebody come back to a history that is gone."""
        other = self.rng.choice([machine for machine in self.world.machines if machine != "etcd"])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._cut("etcd", other))
            tasks.create_task(self._compact_after(0.25))

    async def _compact_after(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self.compact()

    async def _cut(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        self.world.say(f"fault: cut {one} {other}")
        self.world.wire.cut.add(pair)
        await asyncio.sleep(self.rng.choice((0.3, 2.0, 6.0)))
        self.world.say(f"fault: mend {one} {other}")
        self.world.wire.cut.discard(pair)

    async def lose(self) -> None:
        self.world.say("fault: answers are lost")
        self.world.wire.weather.lossy = self.rng.choice((0.05, 0.3))
        await asyncio.sleep(self.rng.uniform(0.3, 2.0))
        self.world.wire.weather.lossy = 0.0

    async def slow(self) -> None:
        self.world.say("fault: the network is slow")
        self.world.wire.weather.slow_s = self.rng.choice((0.1, 0.8))
        await asyncio.sleep(self.rng.uniform(0.5, 2.0))
        self.world.wire.weather.slow_s = 0.0

    async def compact(self) -> None:
        data = self.world.data
        if data.revision > data.compacted + 1:
            self.world.say(f"fault: compaction at {data.revision}")
            data.compact(data.revision)
