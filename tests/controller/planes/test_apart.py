"""Region and cell go on without each other, say how old what they show is, refuse what needs the other at once, and catch up.

History is compacted meanwhile, as it is after any long time, so that nobody can go on where it stopped.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from grpc_status import rpc_status

from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1 import host_pb2
from kumo.errors import Unavailable
from tests.controller.planes.processes import Planes, until
from tests.controller.planes.work import condition, patiently, server_is, until_gone, until_state, verb
from tests.controller.region.region_process import PROJECT

# What is promised is a second; a test may be three times as slow.
REFUSED_WITHIN_S = 3.0


def guests(cloud: Planes) -> dict[str, int]:
    """Return the process of each guest on all hosts, by the server's uid; 0: it is there and does not run."""
    files = [agent.directory / "state" / "hypervisor.json" for agent in cloud.agents.values()]
    servers = [(uid, one["pid"]) for file in files if file.exists() for uid, one in json.loads(file.read_text())["servers"].items()]
    assert len(servers) == len(dict(servers)), "a server is on two hosts"
    return dict(servers)


async def forget_history(cloud: Planes) -> None:
    await cloud.etcd.compact(await cloud.revision(), physical=True)


async def create(cloud: Planes, *names: str) -> dict[str, Server]:
    made = await asyncio.gather(*(patiently(partial(cloud.api.create_server, name)) for name in names))
    return dict(zip(names, made, strict=True))


async def clean_up(cloud: Planes, *names: str) -> None:
    for name in names:
        await patiently(partial(cloud.api.delete_server, name))
    for name in names:
        await until_gone(cloud.api, name)
    assert guests(cloud) == {}


async def list_of(cloud: Planes, host: str) -> dict[str, Server]:
    """Return the servers as one controller of the region lists them."""
    answer = await cloud.apis[host].servers.ListServers(server_pb2.ListServersRequest(parent=PROJECT))
    return {server.name.rpartition("/")[2]: server for server in answer.servers}


async def all_are_stale(cloud: Planes, since: float) -> None:
    """Return once every list says that it is old, and as old as it is."""

    async def is_said(host: str) -> bool:
        shown = [condition(server, "Fresh") for server in (await list_of(cloud, host)).values() if server.status.host]
        return bool(shown) and all(one is not None and one.reason == "STALE" for one in shown)

    for host in cloud.apis:
        await until(partial(is_said, host), what=f"{host} says that its list is old")
        for server in (await list_of(cloud, host)).values():
            said = condition(server, "Fresh")
            assert said is None or abs(said.since.seconds - since) < 5


async def is_refused_at_once(cloud: Planes) -> None:
    """See that a change of a host, which is the cell's, is refused soon, with when to ask again."""
    for api in cloud.apis.values():
        began = time.monotonic()
        with pytest.raises(Unavailable) as refused:
            await api.hosts.DeleteHost(host_pb2.DeleteHostRequest(name="hosts/h1"))
        assert time.monotonic() - began < REFUSED_WITHIN_S
        call: Any = refused.value.__cause__
        status = rpc_status.from_call(call)
        assert status is not None and any("RetryInfo" in detail.type_url for detail in status.details)
        assert refused.value.fix


@asynccontextmanager
async def apart(cloud: Planes) -> AsyncIterator[float]:
    """Cut every link between the region and the cell inside the block; gives the time."""
    try:
        for controller in cloud.cell.values():
            controller.own.cut()
        yield time.time()
    finally:
        for controller in cloud.cell.values():
            controller.own.restore()


async def test_with_the_region_dead_the_cell_finishes_what_it_was_told_and_the_region_takes_it_up_later(cloud: Planes) -> None:
    made = await create(cloud, "kept", "going")
    for name in made:
        await until_state(cloud.api, name, Server.ACTIVE)
    before = guests(cloud)
    cloud.agents["h1"].pause()
    cloud.agents["h2"].pause()
    made |= await create(cloud, "coming")
    await cloud.api.delete_server("going")
    await until(partial(is_ordered, cloud, made["coming"].uid), what="the cell was told of the new server")
    await until(partial(is_told_to_go, cloud, made["going"].uid), what="the cell was told that the old one goes")
    for controller in cloud.region.values():
        await controller.end()
    cloud.agents["h1"].wake()
    cloud.agents["h2"].wake()

    async def cell_is_done() -> bool:
        now = guests(cloud)
        return made["going"].uid not in now and now.get(made["coming"].uid, 0) != 0

    await until(cell_is_done, what="the cell finished by itself")
    assert guests(cloud)[made["kept"].uid] == before[made["kept"].uid]
    await forget_history(cloud)
    for controller in cloud.region.values():
        await controller.start()
        await controller.until_listening()
    await until_state(cloud.api, "coming", Server.ACTIVE)
    await until_gone(cloud.api, "going")
    await clean_up(cloud, "kept", "coming")


async def is_ordered(cloud: Planes, uid: str) -> bool:
    return bool(await cloud.cell_keys("record/server/", uid))


async def is_told_to_go(cloud: Planes, uid: str) -> bool:
    return any(
        Server.FromString(value).HasField("delete_time")
        for key, value in (await cloud.cell_keys("record/server/", uid)).items()
        if key.endswith("/intent")
    )


async def test_with_the_cell_dead_guests_run_on_lists_say_how_old_they_are_and_the_cell_catches_up(cloud: Planes) -> None:
    made = await create(cloud, "kept", "going", "stopping")
    for name in made:
        await until_state(cloud.api, name, Server.ACTIVE)
    before = guests(cloud)
    for controller in cloud.cell.values():
        await controller.end()
    died = time.time()
    await is_refused_at_once(cloud)
    await cloud.api.delete_server("going")
    await cloud.api.servers.StopServer(verb("Stop", "stopping"))
    made |= await create(cloud, "coming")
    await all_are_stale(cloud, died)
    await is_refused_at_once(cloud)
    await forget_history(cloud)
    assert guests(cloud) == before
    for controller in cloud.cell.values():
        await controller.start()
    await until_caught_up(cloud)
    assert guests(cloud)[made["kept"].uid] == before[made["kept"].uid]
    # It was compacted, so that there was no going on where it stopped.
    assert '"cell is read from the beginning"' in (await cloud.leader("region")).log()
    await clean_up(cloud, "kept", "stopping", "coming")


async def until_caught_up(cloud: Planes) -> None:
    await until_gone(cloud.api, "going")
    await until_state(cloud.api, "coming", Server.ACTIVE)
    await until_state(cloud.api, "stopping", Server.STOPPED)
    for host, api in cloud.apis.items():
        await until(partial(server_is, api, "kept", Server.ACTIVE))
        assert all(condition(server, "Fresh") is None for server in (await list_of(cloud, host)).values())


async def test_cut_off_from_each_other_both_go_on_and_no_delete_is_lost_or_undone(cloud: Planes) -> None:
    made = await create(cloud, "kept", "going", "stopping", "ending")
    for name in made:
        await until_state(cloud.api, name, Server.ACTIVE)
    before = guests(cloud)
    for agent in cloud.agents.values():
        agent.pause()
    await cloud.api.delete_server("ending")
    await until(partial(is_told_to_go, cloud, made["ending"].uid), what="the cell was told that it goes")
    async with apart(cloud) as since:
        for agent in cloud.agents.values():
            agent.wake()
        await is_refused_at_once(cloud)
        await cloud.api.delete_server("going")
        await cloud.api.servers.StopServer(verb("Stop", "stopping"))
        made |= await create(cloud, "coming")
        await all_are_stale(cloud, since)
        await is_refused_at_once(cloud)

        async def cell_is_done() -> bool:
            return made["ending"].uid not in guests(cloud)

        await until(cell_is_done, what="the cell took away what it was told to")
        await forget_history(cloud)
        # What the region does not know to be gone is there, and its name and its room with it.
        assert condition((await list_of(cloud, "c2"))["ending"], "Fresh") is not None
        assert set(guests(cloud)) == {made[name].uid for name in ("kept", "going", "stopping")}
    await until_gone(cloud.api, "ending")
    await until_caught_up(cloud)
    assert guests(cloud)[made["kept"].uid] == before[made["kept"].uid]
    assert set(guests(cloud)) == {made[name].uid for name in ("kept", "stopping", "coming")}
    await clean_up(cloud, "kept", "stopping", "coming")
