"""Any controller of the region serves everything, whoever leads either plane; a leader that goes in the middle of work costs only time."""

import asyncio
import signal
from collections.abc import AsyncIterator
from functools import partial

import pytest

from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.errors import Error
from tests.controller.planes.processes import Planes
from tests.controller.planes.work import patiently, server_name, until_gone, until_state, upload
from tests.controller.region.region_process import Api


async def test_every_controller_of_the_region_creates_reads_and_passes_on(cloud: Planes) -> None:
    leader, follower = await cloud.leader("region"), await cloud.follower("region")
    for number, (maker, reader) in enumerate(((follower.host, leader.host), (leader.host, follower.host))):
        one, other, name = cloud.apis[maker], cloud.apis[reader], f"web-{number}"
        await one.create_server(name)
        for api in (one, other):
            await until_state(api, name, Server.ACTIVE)
        await say_and_hear(other, name, b"hello")
        await upload(other, one, f"image-{number}")
        await other.delete_server(name)
        await until_gone(one, name)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest.mark.parametrize("plane", ["region", "cell"])
async def test_a_leader_that_ends_in_the_middle_of_work_is_followed_and_nothing_is_lost_or_doubled(
    cloud: Planes, plane: str, how: signal.Signals
) -> None:
    leader, region_leader = await cloud.leader(plane), await cloud.leader("region")
    stays = next(host for host in cloud.region if plane == "cell" or host != region_leader.host)
    api, prefix = cloud.apis[stays], f"{plane}-{how.name.lower()}"
    names = [f"{prefix}-{number}" for number in range(4)]
    await api.create_server(names[0])
    await until_state(api, names[0], Server.ACTIVE)
    await asyncio.gather(*(api.create_server(name) for name in names[1:]))
    await leader.end(how)
    # While nobody leads, what needs the cell waits for its next leader inside the region, and no client hears of the election.
    await say_and_hear(api, names[0], b"still here", by=1)
    await api.delete_server(names[0])
    await cloud.leader(plane, but=leader.host)
    for name in names[1:]:
        await until_state(api, name, Server.ACTIVE)
    await until_gone(api, names[0])
    await leader.start()
    for name in names[1:]:
        await patiently(partial(api.delete_server, name))
    for name in names[1:]:
        await until_gone(api, name)
    await leader.until_listening()


async def say_and_hear(api: Api, name: str, typed: bytes, by: int = 0) -> None:
    """Type into a console until it comes back; `by` is how often the stream may break meanwhile, as one to a killed process does."""
    for tries in range(by + 1):
        try:
            async with asyncio.timeout(20):
                heard = b""
                async for answer in api.servers.AttachConsole(_typing(name, typed)):
                    heard += answer.output
                    if typed in heard:
                        return
        except Error:
            if tries == by:
                raise
    raise AssertionError(f"{typed!r} did not come back")


async def _typing(name: str, typed: bytes) -> AsyncIterator[server_pb2.AttachConsoleRequest]:
    yield server_pb2.AttachConsoleRequest(name=server_name(name))
    while True:
        yield server_pb2.AttachConsoleRequest(input=typed)
        await asyncio.sleep(0.2)
