"""A long way to etcd and between the processes makes things slower; a clock that jumps changes nothing. Neither makes anything wrong."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from kumo.api.compute.v1.server_pb2 import Server
from kumo.store.etcd import rpc_pb2
from tests.controller.planes.clock import jump
from tests.controller.planes.processes import Planes, planes, until
from tests.controller.planes.test_apart import guests
from tests.controller.planes.work import furnish, patiently, until_gone, until_state
from tests.soak import IS_SOAK

# There and back: what `netem delay 2s` on one end makes of every way.
ROUND_TRIP_S = 2.0
SLOW_S = 120.0
SETTLED_S = 30.0


async def term(cloud: Planes, plane: str) -> int:
    """Return the revision at which the present leader was elected; 0 while there is none."""
    found = (await cloud.etcd.range(rpc_pb2.RangeRequest(key=cloud.key(plane, "lead")))).kvs
    return found[0].create_revision if found else 0


@asynccontextmanager
async def far_apart(cloud: Planes) -> AsyncIterator[None]:
    """Make every way between processes, and to etcd, a long one inside the block."""
    ways = [*(one.own for one in cloud.controllers), *(one.store for one in cloud.controllers), *cloud.to_agents.values()]
    try:
        for way in ways:
            way.delay_s = ROUND_TRIP_S / 2
        yield
    finally:
        for way in ways:
            way.delay_s = 0.0


async def until_leaders_stay(cloud: Planes) -> dict[str, int]:
    """Return the terms of both leaders once neither has changed for three leases."""
    terms = {"region": 0, "cell": 0}
    since = time.monotonic()

    async def have_stayed() -> bool:
        nonlocal terms, since
        now = {plane: await term(cloud, plane) for plane in terms}
        if now != terms or not all(now.values()):
            terms, since = now, time.monotonic()
        return time.monotonic() - since > 6.0

    await until(have_stayed, SLOW_S, "leaders stay")
    return terms


async def test_with_two_seconds_to_everybody_leaders_stay_and_servers_come_and_go(cloud: Planes) -> None:
    await cloud.api.create_server("kept")
    await until_state(cloud.api, "kept", Server.ACTIVE)
    before = guests(cloud)
    async with far_apart(cloud):
        terms = await until_leaders_stay(cloud)
        await patiently(partial(cloud.api.create_server, "slow"), SLOW_S)
        if IS_SOAK:  # some minutes: each step is a few ways there and back
            await until_state(cloud.api, "slow", Server.ACTIVE, SLOW_S)
            await patiently(partial(cloud.api.delete_server, "slow"), SLOW_S)
            await until_gone(cloud.api, "slow", SLOW_S)
            assert guests(cloud) == before
        assert {plane: await term(cloud, plane) for plane in terms} == terms
        assert before.items() <= guests(cloud).items()
    # And it is quick again as soon as the ways are short.
    await patiently(partial(cloud.api.create_server, "quick"))
    names = ["kept", "quick"] if IS_SOAK else ["kept", "quick", "slow"]
    for name in names:
        await until_state(cloud.api, name, Server.ACTIVE, SETTLED_S)
    assert len(guests(cloud)) == len(names)
    for name in names:
        await patiently(partial(cloud.api.delete_server, name))
        await until_gone(cloud.api, name, SETTLED_S)


async def test_a_machine_whose_clock_jumps_by_an_hour_leads_on_and_its_work_goes_on(tmp_path: Path) -> None:
    """The machine has a controller of each plane, which lead, and an agent."""
    file = tmp_path / "clock"
    jump(file, 0)
    before = ("tests.controller.planes.clock", str(file))
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(planes(tmp_path, before={"c1": before}))
        await stack.enter_async_context(cloud.agent("h1", before))
        for plane in ("region", "cell"):
            if (leader := await cloud.leader(plane)).host != "c1":
                await leader.end()
                assert (await cloud.leader(plane, but=leader.host)).host == "c1"
                await leader.start()
                await leader.until_listening()
        await furnish(cloud.apis["c2"], cloud.apis["c1"], {"h1": cloud.to_agents["h1"].address})
        terms = {plane: await term(cloud, plane) for plane in ("region", "cell")}
        kept = await cloud.api.create_server("kept")
        await until_state(cloud.api, "kept", Server.ACTIVE)
        pid = guests(cloud)[kept.uid]
        for hours in (1, -1, 0):
            jump(file, hours * 3600)
            # Nobody may go by when it was that a connection was made.
            for controller in cloud.controllers:
                controller.own.break_all()
            cloud.to_agents["h1"].break_all()
            name = f"jump{hours}"
            made = await patiently(partial(cloud.apis["c1"].create_server, name))
            await until_state(cloud.apis["c2"], name, Server.ACTIVE)
            if hours:
                off_s = made.create_time.seconds - time.time()
                assert abs(off_s - hours * 3600) < 60, "the clock did jump"
            await patiently(partial(cloud.apis["c2"].delete_server, name))
            await until_gone(cloud.apis["c1"], name)
            assert guests(cloud) == {kept.uid: pid}
        assert {plane: await term(cloud, plane) for plane in terms} == terms
        await until_state(cloud.api, "kept", Server.ACTIVE)
