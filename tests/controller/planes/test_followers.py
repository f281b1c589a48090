"""Any controller of the region serves everything, whoever leads either plane; and a leader that goes in the middle of work costs time only."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from tests.controller.planes.processes import Planes, planes
from tests.controller.planes.work import furnish, patiently, server_name, until_gone, until_state, upload


@pytest.fixture(scope="module")
async def cloud(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(planes(tmp_path_factory.mktemp("planes")))
        agents = {host: await stack.enter_async_context(made.agent(host)) for host in ("h1", "h2")}
        leader, follower = await made.leader("region"), await made.follower("region")
        addresses = {host: f"127.0.0.1:{agent.port}" for host, agent in agents.items()}
        await furnish(made.apis[follower.host], made.apis[leader.host], addresses)
        yield made


async def test_every_controller_of_the_region_creates_reads_and_passes_on(cloud: Planes) -> None:
    leader, follower = await cloud.leader("region"), await cloud.follower("region")
    for number, (maker, reader) in enumerate(((follower.host, leader.host), (leader.host, follower.host))):
        one, other, name = cloud.apis[maker], cloud.apis[reader], f"web-{number}"
        await one.create_server(name)
        for api in (one, other):
            await until_state(api, name, Server.ACTIVE)
        assert await console_says(other_api=other, name=name, typed=b"hello") == b"hello"
        await upload(other, one, f"image-{number}")
        await other.delete_server(name)
        await until_gone(one, name)


async def console_says(other_api: object, name: str, typed: bytes) -> bytes:
    """Type into a console and return what comes back, without the greeting."""
    api = other_api
    heard = b""

    async def requests() -> AsyncIterator[server_pb2.AttachConsoleRequest]:
        yield server_pb2.AttachConsoleRequest(name=server_name(name))
        while True:
            yield server_pb2.AttachConsoleRequest(input=typed)
            await asyncio.sleep(0.2)

    async with asyncio.timeout(20):
        async for answer in api.servers.AttachConsole(requests()):  # type: ignore[attr-defined]
            heard += answer.output
            if typed in heard:
                return typed
    raise AssertionError(heard)
