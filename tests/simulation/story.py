"""What users do to the simulated region, and what happens to it meanwhile; told by a seed."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.errors import Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from kumo.ids import new_uid
from tests.controller.region.region_process import PROJECT, server_request
from tests.simulation.world import CONTROLLERS, HOSTS, World

NAMES = ("s0", "s1", "s2")
FAULTS_S = 5.0
CALL_S = 4.0
_AGAIN = (Unavailable, DeadlineExceeded, Aborted, ResourceExhausted)


class Broken(AssertionError):
    """Something that must hold does not."""


@dataclass
class Wanted:
    """A server as its user left it, once a region said yes. `reboots` counts those that were taken."""

    uid: str
    running: bool = True


@dataclass
class Users:
    """Each name has one user, who asks again until there is an answer, of whichever controller."""

    world: World
    rng: random.Random
    wanted: dict[str, Wanted] = field(default_factory=dict)
    apis: dict[str, Any] = field(default_factory=dict)

    async def live(self, name: str, until_s: float) -> None:
        """Do one thing after another to the server of that name until then."""
        while self.world.loop.time() < until_s:
            await asyncio.sleep(self.rng.expovariate(1 / 0.3))
            if name not in self.wanted:
                await self.create(name)
                continue
            match self.rng.choice(("stop", "start", "reboot", "delete", "delete")):
                case "delete":
                    await self.delete(name)
                case "stop" | "start" as verb:
                    await self.switch(name, running=verb == "start")
                case _:
                    await self.reboot(name)

    async def ask(self, what: str, make: Callable[[Any], Awaitable[Any]]) -> Any:
        """Return the answer of a region's controller. Raises what is neither an answer for now nor one for later."""
        while True:
            host = self.rng.choice(CONTROLLERS)
            api = self.apis.setdefault(host, self.world.api(host))
            try:
                answer = await make(api)
            except _AGAIN:
                await asyncio.sleep(self.rng.uniform(0.05, 0.4))
                continue
            self.world.say(f"user: {what}")
            return answer

    async def create(self, name: str) -> None:
        request = server_request(name, request_id=new_uid())

        async def make(api: Any) -> Server:
            made: Server = await api.servers.CreateServer(request, timeout=CALL_S)
            return made

        try:
            made = await self.ask(f"create {name}", make)
        except AlreadyExists as error:
            raise Broken(f"{name} was created once and is said to exist already: {error.message}") from error
        self.wanted[name] = Wanted(made.uid)

    async def delete(self, name: str) -> None:
        """Delete and wait until it is gone: only then may another have the name."""
        request = server_pb2.DeleteServerRequest(name=f"{PROJECT}/servers/{name}")

        async def make(api: Any) -> None:
            try:
                await api.servers.DeleteServer(request, timeout=CALL_S)
            except NotFound:
                # It went at an asking of which the answer was lost; or the controller's mirror is behind and does not know it yet.
                if self.is_there(name):
                    raise Unavailable("NOT_SEEN_YET", name) from None

        await self.ask(f"delete {name}", make)
        del self.wanted[name]
        while self.is_there(name):  # noqa: ASYNC110  # it is looked for from outside
            await asyncio.sleep(0.2)

    def is_there(self, name: str) -> bool:
        """Ask the store itself: a controller that is behind may not even know that it was there."""
        return f"/kumo/region/local/name/server/{PROJECT}/servers/{name}".encode() in self.world.data.items

    async def switch(self, name: str, *, running: bool) -> None:
        verb = "Start" if running else "Stop"
        await self._verb(name, verb, hard=False)
        self.wanted[name].running = running

    async def reboot(self, name: str) -> None:
        if self.wanted[name].running:
            await self._verb(name, "Reboot", hard=True)

    async def _verb(self, name: str, verb: str, *, hard: bool) -> None:
        request_type = getattr(server_pb2, f"{verb}ServerRequest")
        request = request_type(name=f"{PROJECT}/servers/{name}", request_id=new_uid())
        if hard:
            request.mode = server_pb2.REBOOT_MODE_HARD

        async def make(api: Any) -> None:
            try:
                await getattr(api.servers, f"{verb}Server")(request, timeout=CALL_S)
            except NotFound as error:
                raise Unavailable("NOT_SEEN_YET", error.message) from error

        try:
            await self.ask(f"{verb.lower()} {name}", make)
        except FailedPrecondition as error:
            self.world.say(f"user: {verb.lower()} {name} refused: {error.reason}")

    async def get(self, name: str) -> Server | None:
        request = server_pb2.GetServerRequest(name=f"{PROJECT}/servers/{name}")
        while True:
            host = self.rng.choice(CONTROLLERS)
            api = self.apis.setdefault(host, self.world.api(host))
            try:
                found: Server = await api.servers.GetServer(request, timeout=CALL_S)
            except NotFound:
                return None
            except _AGAIN:
                await asyncio.sleep(0.1)
                continue
            return found


class Faults:
    """Whatever may happen, a few things at a time; calm() ends all of it."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self._acts: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.crash, 5),
            (self.pause, 4),
            (self.cut, 4),
            (self.lose, 4),
            (self.slow, 1),
            (self.compact, 3),
            (self.power, 1),
        ]

    async def happen(self, until_s: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            while self.world.loop.time() < until_s:
                await asyncio.sleep(self.rng.expovariate(1 / 0.4))
                (act,) = self.rng.choices([act for act, _ in self._acts], [weight for _, weight in self._acts])
                tasks.create_task(self._guarded(act))

    async def _guarded(self, act: Callable[[], Awaitable[None]]) -> None:
        await act()

    def _up(self) -> list[str]:
        return [name for name, process in self.world.processes.items() if process.is_up and not process.node.is_paused]  # type: ignore[union-attr]

    async def crash(self) -> None:
        name = self.rng.choice(self._up())
        self.world.say(f"fault: kill -9 {name}")
        self.world.crash(name)
        await asyncio.sleep(self.rng.choice((0.05, 0.3, 2.5)))
        self.world.start(name)

    async def power(self) -> None:
        host = self.rng.choice(HOSTS)
        if not self.world.processes[f"agent-{host}"].is_up:
            return
        self.world.say(f"fault: {host} loses power")
        self.world.cut_power(host)
        await asyncio.sleep(self.rng.uniform(0.5, 4.0))
        self.world.start(f"agent-{host}")

    async def pause(self) -> None:
        name = self.rng.choice([one for one in self._up() if one != "etcd"])
        node = self.world.processes[name].node
        assert node is not None
        self.world.say(f"fault: SIGSTOP {name}")
        self.world.loop.pause(node)
        await asyncio.sleep(self.rng.choice((0.4, 2.5, 6.0)))
        self.world.say(f"fault: SIGCONT {name}")
        self.world.loop.resume(node)

    async def cut(self) -> None:
        machines = ["etcd", *CONTROLLERS, *HOSTS, "world"]
        one, other = self.rng.sample(machines, 2)
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
