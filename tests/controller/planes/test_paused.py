"""A leader that was paused until another led writes nothing and commands nothing when it wakes, whatever it was about to do.

Judged by etcd's own history and by what the commanded wrote down; the control is a leader that wakes while its lease is held.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from kumo.api.compute.v1.server_pb2 import Server
from kumo.store import ops
from tests.controller.planes.processes import CELL, REGION, Controller, Planes, until
from tests.controller.planes.work import until_gone, until_state, verb
from tests.controller.region.region_process import Api

BURST = 4
QUIET_S = 0.6


@dataclass
class History:
    """The keys of one plane that were written, oldest first."""

    keys: list[str] = field(default_factory=list)

    async def until_quiet(self) -> None:
        """Return once nothing was written for a while."""

        async def is_quiet() -> bool:
            before = len(self.keys)
            await asyncio.sleep(QUIET_S)
            return len(self.keys) == before

        await until(is_quiet, what="nothing is written any more")


@asynccontextmanager
async def history_of(cloud: Planes, plane: str) -> AsyncIterator[History]:
    history, prefix = History(), cloud.key(plane)
    revision = await cloud.revision()

    async def judge() -> None:
        async with cloud.etcd.watch(prefix, ops.prefix_end(prefix), revision + 1) as watch:
            async for batch in watch:
                keys = (event.kv.key.removeprefix(prefix).decode() for event in batch.events)
                # A barrier says nothing of anything: whoever has given up a write raises one, so that it cannot come late.
                history.keys += [key for key in keys if not key.startswith("barrier/")]

    async with asyncio.TaskGroup() as tasks:
        judging = tasks.create_task(judge())
        yield history
        judging.cancel()


def commands(text: str, leader: Controller) -> int:
    """Return how many changes a process says it made for `leader`, by what its certificate says."""
    cell = "region" if leader.plane == "region" else CELL
    principal = f"spiffe://{cell}.{REGION}.kumo/controller/{leader.host}"
    lines = (json.loads(line) for line in text.splitlines() if '"call done"' in line)
    return sum(line.get("principal") == principal for line in lines)


def commanded(cloud: Planes, leader: Controller) -> int:
    """Return how many commands of `leader` were obeyed by those it commands: agents, or the controllers of the cell."""
    logs = [agent.log() for agent in cloud.agents.values()] if leader.plane == "cell" else [one.log() for one in cloud.cell.values()]
    return sum(commands(text, leader) for text in logs)


async def burst(cloud: Planes, prefix: str, leader: Controller) -> list[str]:
    """Create servers through a controller of the region that is not `leader`, and return when `leader` is in the middle of the work."""
    before, names = commanded(cloud, leader), [f"{prefix}-{number}" for number in range(BURST)]
    await asyncio.gather(*(other_api(cloud, leader).create_server(name) for name in names))

    async def has_begun() -> bool:
        return commanded(cloud, leader) > before

    await until(has_begun, what=f"{leader.name} is at work")
    return names


def other_api(cloud: Planes, leader: Controller) -> Api:
    return next(api for host, api in cloud.apis.items() if leader.plane == "cell" or host != leader.host)


@pytest.mark.parametrize("plane", ["cell", "region"])
async def test_a_leader_that_sleeps_past_its_lease_writes_and_commands_nothing_when_it_wakes(cloud: Planes, plane: str) -> None:
    leader = await cloud.leader(plane)
    api = other_api(cloud, leader)
    async with history_of(cloud, plane) as history:
        # The control: it sleeps for less than its lease, wakes, and goes on.
        names = await burst(cloud, f"{plane}-short", leader)
        leader.pause()
        before = commanded(cloud, leader)
        leader.wake()
        # What it was in the midst of may have been its last word: it has to say another one.
        names += await burst(cloud, f"{plane}-woken", leader)
        for name in names:
            await until_state(api, name, Server.ACTIVE)
        assert commanded(cloud, leader) > before and history.keys
        assert await cloud.leader(plane) is leader

        more = await burst(cloud, f"{plane}-long", leader)
        leader.pause()
        try:
            successor = await cloud.leader(plane, but=leader.host)
            for name in more:
                await until_state(api, name, Server.ACTIVE)
            await api.servers.StopServer(verb("Stop", names[0]))
            await until_state(api, names[0], Server.STOPPED)
            for name in (names[1], more[0]):
                await api.delete_server(name)
                await until_gone(api, name)
            await history.until_quiet()
            written, obeyed = len(history.keys), commanded(cloud, leader)
        finally:
            leader.wake()
        await until(gave_up(leader), what="it knows that it leads no more")
        await history.until_quiet()
        assert history.keys[written:] == []
        assert commanded(cloud, leader) == obeyed
        assert await cloud.leader(plane) is successor
    await until_state(api, names[0], Server.STOPPED)
    # It is as good as any other from then on.
    await successor.end()
    assert await cloud.leader(plane, but=successor.host) is leader
    api = cloud.apis[leader.host]
    for name in (*names[2:], *more[1:], names[0]):
        await api.delete_server(name)
    for name in (*names[2:], *more[1:], names[0]):
        await until_gone(api, name)
    await successor.start()
    await successor.until_listening()


def gave_up(leader: Controller) -> Callable[[], Awaitable[bool]]:
    before = leader.log().count('"leading no more"')

    async def check() -> bool:
        return leader.log().count('"leading no more"') > before

    return check


async def test_agents_refuse_what_a_deposed_leader_sends_on_connections_that_are_still_open(cloud: Planes) -> None:
    """It wakes as soon as its successor is obeyed, in the middle of its work, before anybody gave up its connections."""
    leader = await cloud.leader("cell")
    api = cloud.api
    names = await burst(cloud, "open", leader)
    leader.pause()
    try:
        await cloud.leader("cell", but=leader.host)
        obeyed = {host: agent.log().count('"leader obeyed"') for host, agent in cloud.agents.items()}

        async def successor_is_obeyed() -> bool:
            return all(agent.log().count('"leader obeyed"') > obeyed[host] for host, agent in cloud.agents.items())

        await until(successor_is_obeyed, what="agents obey the successor")
    finally:
        leader.wake()
    for name in names:
        await until_state(api, name, Server.ACTIVE)
    for agent in cloud.agents.values():
        of_successor = agent.log().rpartition('"leader obeyed"')[2]
        assert commands(of_successor, leader) == 0
