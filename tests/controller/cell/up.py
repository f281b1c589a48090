"""A cell that is ready for servers: some hosts, a network, and an image that can be cloned from."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.image.v1.image_pb2 import Image
from tests.controller.cell.images import upload
from tests.controller.cell.world import Bundle, Cloud, Region, RunningAgent, bundle, running


@dataclass(frozen=True)
class Up:
    region: Region
    base: Bundle
    agents: dict[str, RunningAgent]
    hosts: dict[str, Host]


@asynccontextmanager
async def up(cloud: Cloud, *names: str, vcpus: int = 4, memory_mib: int = 4096) -> AsyncIterator[Up]:
    """A cell with these hosts, a network and an image that can be cloned from."""
    async with AsyncExitStack() as stack:
        agents = {name: await stack.enter_async_context(cloud.agent(name, vcpus=vcpus, memory_mib=memory_mib)) for name in names}
        await stack.enter_async_context(cloud.lead())
        await stack.enter_async_context(running(cloud.region.follow()))
        hosts = {
            name: await cloud.region.create_host(name, agent.address, tunnel_address=f"127.0.0.{number}")
            for number, (name, agent) in enumerate(agents.items(), start=1)
        }
        base = bundle("base")
        await cloud.region.push_shared(base)
        await upload(cloud.region, base.image)
        await cloud.region.until(lambda: cloud.region.fact(base.image.uid).image.status.state == Image.ACTIVE, "image is ACTIVE")
        yield Up(cloud.region, base, agents, hosts)
