"""The cell's leader ends before and after each commit and each agent call of a create and of a delete; the next one finishes the work.

A clean run writes the steps down first. What is left in the end is what was there before: in the store, on disks, on the host.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.image.v1.image_pb2 import Image
from kumo.store import ops
from kumo.store.client import Etcd
from tests.controller.cell.fate import Fate
from tests.controller.cell.images import upload
from tests.controller.cell.world import DEADLINE_S, Bundle, Cloud, RunningAgent, bundle, running

Settled = Callable[[], Awaitable[None]]
_HALVES = ("before", "after")


@asynccontextmanager
async def _ready(cloud: Cloud) -> AsyncIterator[tuple[Bundle, RunningAgent]]:
    """A cell with a host and an image, and no controller."""
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(cloud.agent())
        async with cloud.lead(), running(cloud.region.follow()):
            await cloud.region.create_host("h1", agent.address)
            base = bundle("base")
            await cloud.region.push_shared(base)
            await upload(cloud.region, base.image)
            await cloud.region.until(lambda: cloud.region.fact(base.image.uid).image.status.state == Image.ACTIVE, "image is ACTIVE")
        await _bury(cloud)
        await stack.enter_async_context(running(cloud.region.follow()))
        yield base, agent


async def _bury(cloud: Cloud) -> None:
    """Let the lease of a dead leader have run out."""
    async with Etcd(cloud.etcd_addresses) as etcd:
        await etcd.txn(success=[ops.delete(f"{cloud.prefix}/lead".encode())])


async def _no_carriers(cloud: Cloud) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while any(key.startswith("record/carriers/") for key in await cloud.keys()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Left:
    """What there is: keys of the store, and what the host and the pool have."""

    keys: set[str]
    host: dict[str, object]


async def _until_left(cloud: Cloud, agent: RunningAgent, wanted: Left) -> None:
    """Return once no more is left than `wanted`: networks go a moment after the last of their ports."""
    deadline = time.monotonic() + DEADLINE_S
    while (left := Left(await cloud.keys(), _left_on_host(agent))) != wanted:
        assert time.monotonic() < deadline, f"left: {left.keys - wanted.keys}, missing: {wanted.keys - left.keys}, on the host: {left.host}"
        await asyncio.sleep(0.02)


async def _life(cloud: Cloud, wanted: Bundle, create: Fate, delete: Fate, settled: Settled) -> None:
    """Create the server and delete it, each under leaders that may end, until another one has finished the work."""
    region = cloud.region
    async with _leaders(cloud, create):
        await region.push_owned(wanted)
        await region.until_state(wanted.server.uid, Server.ACTIVE)
    await _bury(cloud)
    async with _leaders(cloud, delete):
        await region.delete(wanted)
        await region.until(lambda: {thing.uid for _kind, thing in wanted.owned()} <= set(region.ended), "all ended")
        await settled()
    await _bury(cloud)


@asynccontextmanager
async def _leaders(cloud: Cloud, fate: Fate) -> AsyncIterator[None]:
    """Run a leader with `fate`, which counts from when it leads, and another one when it was struck."""
    leads = asyncio.Event()

    async def lead() -> None:
        async with cloud.lead(fate):
            fate.arm()
            leads.set()
            await fate.struck.wait()
        await _bury(cloud)
        async with cloud.lead():
            await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(lead())
    try:
        waiting = asyncio.ensure_future(leads.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])


def _left_on_host(agent: RunningAgent) -> dict[str, object]:
    """Return what the host and the pool have of any server; tombstones do not count."""
    volumes = sorted(path.name for path in (agent.state / "volumes").glob("*/volumes/*"))
    hypervisor = json.loads((agent.state / "hypervisor.json").read_text())
    network = json.loads((agent.state / "network.json").read_text())
    return {"volumes": volumes, "servers": hypervisor["servers"], "network": network}


async def _steps(cloud: Cloud) -> tuple[list[str], list[str]]:
    """Run one clean life and return its steps."""
    async with _ready(cloud) as (base, _agent):
        create, delete = Fate(), Fate()
        await _life(cloud, bundle("hello", base=base), create, delete, lambda: _no_carriers(cloud))
        return create.steps, delete.steps


async def test_a_leader_may_end_at_any_step_of_create_and_delete(cloud: Cloud, tmp_path: Path) -> None:
    create_steps, delete_steps = await _steps(cloud)
    assert {"commit", "EnsureVolume", "SetOwner", "ApplyServer", "ApplyPort", "ApplyNetwork"} <= set(create_steps)
    assert {"commit", "DeleteVolume", "ApplyServer", "ApplyPort"} <= set(delete_steps)
    again = Cloud(cloud.pki, tmp_path / "again", cloud.etcd_addresses, f"{cloud.prefix}-again", cloud.port, cloud.region)
    again.folder.mkdir()
    async with _ready(again) as (base, agent):
        await _life(again, bundle("first", base=base, number=2), Fate(), Fate(), lambda: _no_carriers(again))
        before = Left(await again.keys(), _left_on_host(agent))
        number = 2
        for index in range(max(len(create_steps), len(delete_steps))):
            for half in _HALVES:
                number += 1
                wanted = bundle(f"s{number}", base=base, number=number)
                create, delete = (Fate(index, before=half == "before") for _ in range(2))
                try:
                    await _life(again, wanted, create, delete, lambda: _until_left(again, agent, before))
                except AssertionError as error:
                    pytest.fail(f"ended {half} step {index} ({create.steps[-1:]}, {delete.steps[-1:]}): {error}")
