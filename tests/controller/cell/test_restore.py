"""After the cell's store is lost or restored, servers stay where they run, and what the agents hold is taken over."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from kumo.api.compute.v1.server_pb2 import Server
from tests.controller.cell.images import upload
from tests.controller.cell.world import Cloud, RunningAgent, bundle, running


def _guests(agent: RunningAgent) -> dict[str, Any]:
    file: Path = agent.state / "hypervisor.json"
    found: dict[str, Any] = json.loads(file.read_text())["servers"] if file.exists() else {}
    return found


async def test_a_store_that_forgot_everything_finds_servers_where_they_run(cloud: Cloud) -> None:
    async with AsyncExitStack() as stack:
        agents = {name: await stack.enter_async_context(cloud.agent(name)) for name in ("h1", "h2")}
        base = bundle("base")
        servers = [bundle(f"s{number}", base=base, number=number) for number in (2, 3, 4)]
        async with cloud.lead(), running(cloud.region.follow()):
            for name, agent in agents.items():
                await cloud.region.create_host(name, agent.address)
            await cloud.region.push(base)
            await upload(cloud.region, base.image)
            for wanted in servers:
                await cloud.region.push(wanted)
                await cloud.region.until_state(wanted.server.uid, Server.ACTIVE)
        before = {name: _guests(agent) for name, agent in agents.items()}
        assert sum(map(len, before.values())) >= 3
        restored = cloud.beside(prefix=f"{cloud.prefix}-restored")
        region = restored.region
        await stack.enter_async_context(restored.lead())
        await stack.enter_async_context(running(region.follow()))
        for name, agent in agents.items():
            await region.create_host(name, agent.address)
        await region.push(base)
        await upload(region, base.image)
        for wanted in servers:
            await region.push(wanted)
        for wanted in servers:
            await region.until_state(wanted.server.uid, Server.ACTIVE)
            host = region.server(wanted.server.uid).status.host.removeprefix("hosts/")
            assert _guests(agents[host])[wanted.server.uid]["pid"] == before[host][wanted.server.uid]["pid"], "it was not started anew"
        for wanted in servers:
            await region.delete(wanted)
        await region.until(lambda: {wanted.server.uid for wanted in servers} <= set(region.ended), "all are gone")
