"""An agent on fakes ends before and after each call of a driver and each write of a file in a server's life; the next one finishes.

A clean run writes the steps of create, stop, start, reboot and delete down. `make test` takes every few of them, from a random one on.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.main import Agent
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.image.v1.image_pb2 import Image
from tests.controller.cell.images import upload
from tests.controller.cell.test_crash import Left, _left_on_host, _no_carriers, _until_left
from tests.controller.cell.world import Bundle, Cloud, RunningAgent, bundle, running
from tests.etcd import free_ports
from tests.soak import count

HALVES = ("before", "after")
COMPUTE = ("define", "start", "resume", "cut_power", "undefine")
NETWORK = ("make_bridge", "make_tunnel", "make_metadata", "change_entries", "admit_tunnels", "remove_network")
PORT = ("put_reachable", "put_rules", "admit", "plug", "remove_tap", "remove_reachable")
STORAGE = ("ensure_volume", "delete_volume", "set_owner", "disk_source", "break_dead_lock")
FILES = ("save", "remove")


@dataclass
class Fate:
    """Ends an agent at the n-th step from now on; -1: never. `steps` are those that it took."""

    strike_at: int = -1
    when: str = "before"
    steps: list[str] = field(default_factory=list)


class Agents:
    """One host whose agent ends by the fate of the moment, and is started again."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._port = cloud, free_ports(1)[0]
        self.fate = Fate()
        self.address = f"127.0.0.1:{self._port}"
        self.now: RunningAgent | None = None
        self.lives = asyncio.Event()

    async def run(self) -> None:
        while True:
            async with self._cloud.agent(port=self._port) as made:
                died = asyncio.Event()
                self._wrap(made.agent, died)
                self.now = made
                self.lives.set()
                await died.wait()

    def _wrap(self, agent: Agent, died: asyncio.Event) -> None:
        parts: list[tuple[Any, tuple[str, ...]]] = [
            (agent._hypervisor, COMPUTE),
            (agent._network._driver, NETWORK + PORT),
            (agent._drivers["fake"], STORAGE),
            (agent._files, FILES),
        ]
        for owner, names in parts:
            for name in names:
                setattr(owner, name, self._mortal(name, getattr(owner, name), died))

    def _mortal(self, label: str, inner: Callable[..., Awaitable[Any]], died: asyncio.Event) -> Callable[..., Awaitable[Any]]:
        async def mortal(*arguments: Any, **named: Any) -> Any:
            _only_alive(died)
            fate = self.fate
            index = len(fate.steps)
            fate.steps.append(label)
            self._strike(fate, index, "before", died)
            answer = await inner(*arguments, **named)
            _only_alive(died)
            self._strike(fate, index, "after", died)
            return answer

        return mortal

    def _strike(self, fate: Fate, index: int, when: str, died: asyncio.Event) -> None:
        if (index, when) == (fate.strike_at, fate.when):
            self.lives.clear()
            died.set()
            _only_alive(died)


def _only_alive(died: asyncio.Event) -> None:
    """What was under way in a dead agent does nothing more, as if there were no process."""
    if died.is_set():
        raise asyncio.CancelledError


@asynccontextmanager
async def ready(cloud: Cloud) -> AsyncIterator[tuple[Agents, Bundle]]:
    agents = Agents(cloud)
    async with running(agents.run()), cloud.lead(), running(cloud.region.follow()):
        await agents.lives.wait()
        await cloud.region.create_host("h1", agents.address)
        base = bundle("base")
        await cloud.region.push_shared(base)
        await upload(cloud.region, base.image)
        await cloud.region.until(lambda: cloud.region.fact(base.image.uid).image.status.state == Image.ACTIVE, "image is ACTIVE")
        yield agents, base


async def _create(cloud: Cloud, wanted: Bundle) -> None:
    await cloud.region.push_owned(wanted)
    await _until_done(cloud, wanted, Server.ACTIVE)


async def _stop(cloud: Cloud, wanted: Bundle) -> None:
    await _change(cloud, wanted, Server.STOPPED, power=Server.OFF, hard=True)


async def _start(cloud: Cloud, wanted: Bundle) -> None:
    await _change(cloud, wanted, Server.ACTIVE, power=Server.RUNNING)


async def _reboot(cloud: Cloud, wanted: Bundle) -> None:
    await _change(cloud, wanted, Server.ACTIVE, reboots=1, hard=True)


async def _delete(cloud: Cloud, wanted: Bundle) -> None:
    await cloud.region.delete(wanted)
    await cloud.region.until(lambda: {thing.uid for _kind, thing in wanted.owned()} <= set(cloud.region.ended), "all ended")


ACTS = (_create, _stop, _start, _reboot, _delete)


async def _change(cloud: Cloud, wanted: Bundle, state: "Server.State.ValueType", **spec: Any) -> None:
    wanted.server.generation += 1
    for name, value in spec.items():
        setattr(wanted.server.spec, name, value)
    await cloud.region.push_owned(wanted, kinds=["server"])
    await _until_done(cloud, wanted, state)


async def _until_done(cloud: Cloud, wanted: Bundle, state: "Server.State.ValueType") -> None:
    def done() -> bool:
        status = cloud.region.server(wanted.server.uid).status
        return status.observed_generation == wanted.server.generation and status.state == state

    await cloud.region.until(done, f"{wanted.server.name} is {Server.State.Name(state)}")


async def _life(cloud: Cloud, agents: Agents, wanted: Bundle, fates: list[Fate]) -> None:
    for act, fate in zip(ACTS, fates, strict=True):
        agents.fate = fate
        await act(cloud, wanted)
        agents.fate = Fate()
        await agents.lives.wait()


@pytest.mark.timeout(600)
async def test_an_agent_may_end_at_any_step_of_a_servers_life(cloud: Cloud) -> None:
    async with ready(cloud) as (agents, base):
        clean = [Fate() for _ in ACTS]
        await _life(cloud, agents, bundle("clean", base=base), clean)
        assert agents.now is not None
        most = max(len(fate.steps) for fate in clean)
        assert most >= 10
        # Networks leave a host a moment after the last of their ports.
        await _no_carriers(cloud)
        before = Left(await cloud.keys(), _left_on_host(agents.now))
        stride = count(6, 1)
        deaths = [(index, when) for index in range(most) for when in HALVES][random.randrange(stride) :: stride]
        for number, (index, when) in enumerate(deaths, start=2):
            fates = [Fate(index, when) for _ in ACTS]
            try:
                await _life(cloud, agents, bundle(f"s{number}", base=base, number=number), fates)
                await _until_left(cloud, agents.now, before)
            except AssertionError as error:
                pytest.fail(f"ended {when} step {index} of {[fate.steps[index : index + 1] for fate in fates]}: {error}")
