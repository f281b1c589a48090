"""What users do to the simulated region, and what happens to it meanwhile; told by a seed."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.errors import Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from kumo.ids import new_uid
from tests.controller.planes.work import furnish
from tests.controller.region.region_process import PROJECT, server_request
from tests.simulation.faults import Faults
from tests.simulation.invariants import NAMES, Judge, Wanted
from tests.simulation.loop import VirtualLoop
from tests.simulation.machines import Broken
from tests.simulation.run import at_rest
from tests.simulation.wire import Wire
from tests.simulation.world import CONTROLLERS, HOSTS, World, agent_address

FAULTS_S, PACE_S = 5.0, 0.4
CALL_S = 4.0
_AGAIN = (Unavailable, DeadlineExceeded, Aborted, ResourceExhausted)


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
            # It may have gone at an asking of which the answer was lost.
            with contextlib.suppress(NotFound):
                await api.servers.DeleteServer(request, timeout=CALL_S)

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
            await getattr(api.servers, f"{verb}Server")(request, timeout=CALL_S)

        try:
            await self.ask(f"{verb.lower()} {name}", make)
        except FailedPrecondition as error:
            self.world.say(f"user: {verb.lower()} {name} refused: {error.reason}")


class Power:
    """What only hosts suffer."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng

    async def fail(self) -> None:
        host = self.rng.choice(HOSTS)
        if not self.world.processes[f"agent-{host}"].is_up:
            return
        self.world.say(f"fault: {host} loses power")
        self.world.cut_power(host)
        await asyncio.sleep(self.rng.uniform(0.5, 4.0))
        self.world.start(f"agent-{host}")


class RegionPlay:
    """Users of a region and its faults; in the end all is as the users left it, and of what they deleted nothing is left."""

    def build(self, loop: VirtualLoop, wire: Wire, rng: random.Random, folder: Path, shared: Path) -> World:
        return World(loop, wire, rng, folder, shared)

    async def prepare(self, world: World) -> None:
        """Furnish the region."""
        for name in world.processes:
            world.start(name)
        first, second = (world.api(host) for host in CONTROLLERS)
        await furnish(first, second, {host: agent_address(host) for host in HOSTS})
        await asyncio.sleep(1.0)
        # A first server leaves what stays: the cell learns of the network.
        user, judge = Users(world, random.Random(0)), Judge(world)
        await user.create("s0")
        await at_rest(world, lambda: judge.unsettled(user.wanted))
        await user.delete("s0")

    async def tell(self, world: World, rng: random.Random) -> list[str]:
        judge, users = Judge(world), Users(world, rng)
        faults = Faults(world, rng, PACE_S, [(Power(world, rng).fail, 1)])
        until_s = world.loop.time() + FAULTS_S
        looking = asyncio.ensure_future(judge.keep_looking())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(faults.happen(until_s))
                for name in NAMES:
                    tasks.create_task(users.live(name, until_s))
            world.say("calm")
            await at_rest(world, lambda: judge.unsettled(users.wanted))
            async with asyncio.TaskGroup() as tasks:
                for name in list(users.wanted):
                    tasks.create_task(users.delete(name))
            await at_rest(world, judge.left_over)
        finally:
            looking.cancel()
        return judge.broken
