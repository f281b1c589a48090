"""Processes on machines, over one etcd, in one process: started, crashed, paused, cut off and mended. What they do is others'."""

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.simulation import etcd
from tests.simulation.loop import NODE, Node, VirtualLoop
from tests.simulation.wire import Server, Wire

ETCD = "127.0.0.1:2379"


class Broken(AssertionError):
    """Something that must hold does not."""


@dataclass
class Process:
    """One program: how it is started, and its life now."""

    name: str
    machine: str
    main: Callable[["Process"], Coroutine[Any, Any, None]]
    node: Node | None = None
    task: "asyncio.Task[None] | None" = None
    # What a life leaves for the world to look at.
    inside: Any = None

    @property
    def is_up(self) -> bool:
        return self.node is not None and self.node.is_alive


@dataclass
class Machines:
    """`machines` are those between which cables can be cut; whoever looks on is on the machine "world"."""

    loop: VirtualLoop
    wire: Wire
    rng: random.Random
    # Of each run alone, and of all.
    folder: Path
    shared: Path
    data: etcd.Data = field(init=False)
    processes: dict[str, Process] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = etcd.Data(self.loop.time)
        self.add("etcd", "etcd", self._etcd)

    def add(self, name: str, machine: str, main: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        self.processes[name] = Process(name, machine, main)

    @property
    def machines(self) -> list[str]:
        return [*dict.fromkeys(process.machine for process in self.processes.values()), "world"]

    # ---- what happens to processes

    def say(self, what: str) -> None:
        self.events.append(f"{self.loop.time():9.4f} {what}")

    def start(self, name: str) -> None:
        process = self.processes[name]
        assert not process.is_up
        process.node = Node(name, process.machine)
        context = contextvars.copy_context()
        context.run(NODE.set, process.node)
        process.task = self.loop.create_task(self._live(process), context=context)

    async def _live(self, process: Process) -> None:
        """Run a program; one that ends by itself is started again by its init, as any is."""
        node = process.node
        assert node is not None
        try:
            await process.main(process)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever ended it, its init starts it again
            self.say(f"{process.name} ended: {_leaf(error)!r}")
        self.loop.call_later(0.5, self._start_again, process, node, context=contextvars.Context())

    def _start_again(self, process: Process, node: Node) -> None:
        if process.node is node and node.is_alive:
            self.crash(process.name)
            self.start(process.name)

    def crash(self, name: str, *, is_power: bool = False) -> None:
        process = self.processes[name]
        assert process.node is not None
        self.loop.crash(process.node)
        self.wire.crashed(process.node, is_power=is_power)

    async def _etcd(self, process: Process) -> None:
        service = etcd.Service(self.data, self.rng)
        server = Server(self.wire, NODE.get())
        server.handlers = service.handlers()
        server.add_secure_port(ETCD, None)
        await server.start()
        await service.run()


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
