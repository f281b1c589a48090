"""A server from its order to its end, through a real store and an agent's own code."""

from contextlib import AsyncExitStack

from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.image.v1.image_pb2 import Image
from tests.controller.cell.images import upload
from tests.controller.cell.world import Cloud, bundle, running


async def test_a_server_is_placed_made_and_started_and_its_end_leaves_nothing(cloud: Cloud) -> None:
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(cloud.agent())
        await stack.enter_async_context(cloud.lead())
        await stack.enter_async_context(running(cloud.region.follow()))
        region = cloud.region
        await region.create_host("h1", agent.address)
        wanted = bundle()
        await region.push(wanted)
        await upload(region, wanted.image)
        await region.until(lambda: region.facts[wanted.image.uid].image.status.state == Image.ACTIVE, "image is ACTIVE")
        await region.until_state(wanted.server.uid, Server.ACTIVE)
        status = region.server(wanted.server.uid).status
        assert status.host == "hosts/h1"
        assert [address.address for address in status.addresses] == ["10.0.0.10"]
        await region.delete(wanted)
        await region.until(lambda: {thing.uid for _kind, thing in wanted.owned()} <= set(region.ended), "all ended")
        print(sorted(await cloud.keys()))
        import subprocess
        print(subprocess.run(["find", str(cloud.folder), "-type", "f"], capture_output=True, text=True).stdout)
        print([(e.reason, e.message, e.operator_message) for e in region.events])
        assert 0
