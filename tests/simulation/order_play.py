"""The small play with the order book of agents in place of its device: commands come twice, late, and after those that follow them.

What a command asks for is as good as done once it is kept, and an end is acknowledged at once: only the order is of interest.
"""

import asyncio
import contextvars
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.stamps import Commands, Terms
from agent.state import StateFiles
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest, DesiredServer
from kumo.api.type.v1 import stamp_pb2
from kumo.errors import FailedPrecondition, Unavailable
from kumo.store.term import Term
from tests.simulation.loop import VirtualLoop
from tests.simulation.store_play import Device, SmallWorld, StorePlay
from tests.simulation.wire import Wire

KIND = "servers"
# More than any intent has: nothing of a thing comes after its end.
_OF_AN_END = 1 << 40
_SWEEP_S = 0.2


class OrderedDevice(Device):
    """Keeps commands as an agent does. Every other one comes a second time, up to two seconds later."""

    def __init__(self, rng: random.Random, folder: Path) -> None:
        super().__init__(rng)
        files = StateFiles(folder, reserve_bytes=0)
        self.terms = Terms(files)
        self.commands = Commands(files, KIND, ApplyServerRequest, self.terms)
        self._sequence = 0

    async def make(self, term: Term, uid: str, size: int | None) -> None:
        self._sequence += 1
        stamp = stamp_pb2.Stamp(
            term=stamp_pb2.Term(incarnation=term.incarnation, create_revision=term.create_revision),
            sequence=self._sequence,
            epoch=stamp_pb2.Epoch(cell=1, host=1),
            generation=_OF_AN_END if size is None else size,
        )
        command = ApplyServerRequest(stamp=stamp, uid=uid, desired=None if size is None else DesiredServer(vcpus=size))
        if self.rng.random() < 0.5:
            delay_s = self.rng.uniform(0.0, 2.0)
            asyncio.get_running_loop().call_later(delay_s, self._again, command, context=contextvars.Context())
        await asyncio.sleep(self.rng.uniform(0.001, 0.03))
        try:
            await self._obey(command)
        except FailedPrecondition as error:
            if error.metadata.get("behind") == "term":
                raise ConnectionRefusedError("a later leader was here") from error
            raise
        if self.rng.random() < 0.1:
            raise Unavailable("ANSWER_LOST", "try again")

    def _again(self, command: ApplyServerRequest) -> None:
        asyncio.get_running_loop().create_task(self._obey_late(command))  # type: ignore[unused-awaitable]  # the loop holds on to all of them

    async def _obey_late(self, command: ApplyServerRequest) -> None:
        with suppress(FailedPrecondition):
            await self._obey(command)

    async def _obey(self, command: ApplyServerRequest) -> None:
        await self.commands.accept(command)
        if not command.HasField("desired"):
            await self.commands.acknowledge([command.uid])
        self._look()

    async def forget(self) -> None:
        """Drop old tombstones, as agents do, only more often; never returns."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            await self.commands.drop_old_tombstones()

    def _look(self) -> None:
        self.sizes = {uid: command.desired.vcpus for uid, command in self.commands.held.items() if command.HasField("desired")}


class OrderWorld(SmallWorld):
    device: OrderedDevice

    def make_device(self) -> OrderedDevice:
        return OrderedDevice(self.rng, self.folder / "device")


class OrderPlay(StorePlay):
    def build(self, loop: VirtualLoop, wire: Wire, rng: random.Random, folder: Path, shared: Path) -> OrderWorld:
        return OrderWorld(loop, wire, rng, folder, shared)

    async def tell(self, world: Any, rng: random.Random) -> list[str]:
        forgetting = asyncio.ensure_future(world.device.forget())
        try:
            return await super().tell(world, rng)
        finally:
            forgetting.cancel()
