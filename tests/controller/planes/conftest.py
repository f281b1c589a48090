"""Two planes with two hosts, as processes, for the tests of one module."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.controller.planes.processes import Planes, planes
from tests.controller.planes.work import furnish


@pytest.fixture(scope="module")
async def cloud(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(planes(tmp_path_factory.mktemp("planes")))
        for host in ("h1", "h2"):
            await stack.enter_async_context(made.agent(host))
        leader, follower = await made.leader("region"), await made.follower("region")
        await furnish(made.apis[follower.host], made.apis[leader.host], {host: proxy.address for host, proxy in made.to_agents.items()})
        yield made
