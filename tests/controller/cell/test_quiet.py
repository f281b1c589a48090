"""What is settled is left alone: a pass that changes nothing writes nothing, and an agent that came back is told all again."""

import asyncio
import time
from contextlib import AsyncExitStack

from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.type.v1.condition_pb2 import Condition
from tests.controller.cell.images import upload
from tests.controller.cell.world import Cloud, bundle, running


def _condition(server: Server, kind: str) -> Condition:
    return next((one for one in server.status.conditions if one.type == kind), Condition())


async def test_looking_at_everything_again_writes_nothing(cloud: Cloud) -> None:
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(cloud.agent())
        runner = await stack.enter_async_context(cloud.lead())
        await stack.enter_async_context(running(cloud.region.follow()))
        region, wanted = cloud.region, bundle()
        await region.create_host("h1", agent.address)
        await region.push(wanted)
        await upload(region, wanted.image)
        await region.until_state(wanted.server.uid, Server.ACTIVE)
        term = runner.leadership.term()
        await region.until(lambda: _condition(region.server(wanted.server.uid), "PortsReady").status == Condition.TRUE, "ports are ready")
        await _until_idle(runner)
        before = term.cell.ledger.revision
        for loop, uids in (
            (term.loops.servers, [wanted.server.uid]),
            (term.loops.volumes, [wanted.volume.uid]),
            (term.loops.ports, [wanted.port.uid]),
            (term.loops.networks, [wanted.network.uid]),
            (term.loops.images, [wanted.image.uid]),
            (term.loops.pools, [wanted.pool.uid]),
            (term.loops.attachments, [wanted.attachment.uid]),
            (term.loops.hosts, term.cell.records.hosts.uids()),
            (term.loops.audits, [wanted.pool.uid]),
        ):
            for uid in uids:
                loop.add(uid)
        await _until_idle(runner)
        assert term.cell.ledger.revision == before


async def _until_idle(runner: object) -> None:
    """Return once no loop has had anything to do for a while of the event loop's turns."""
    loops = runner.leadership.term().loops.all()  # type: ignore[attr-defined]
    deadline, quiet = time.monotonic() + 15.0, 0
    while quiet < 20:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
        quiet = quiet + 1 if all(loop.idle for loop in loops) else 0


async def test_an_agent_that_was_away_is_told_what_changed_meanwhile(cloud: Cloud) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(cloud.lead())
        await stack.enter_async_context(running(cloud.region.follow()))
        region, wanted = cloud.region, bundle()
        async with cloud.agent() as agent:
            port = int(agent.address.rpartition(":")[2])
            host = await region.create_host("h1", agent.address)
            await region.push(wanted)
            await upload(region, wanted.image)
            await region.until(lambda: region.fact(wanted.image.uid).image.status.state == Image.ACTIVE, "image is ACTIVE")
            await region.until_state(wanted.server.uid, Server.ACTIVE)
        await region.until(lambda: _condition(region.server(wanted.server.uid), "HostAnswers").reason == "HOST_SILENT", "it says so")
        assert region.server(wanted.server.uid).status.state == Server.ACTIVE, "it may run on"
        wanted.server.generation, wanted.server.spec.power, wanted.server.spec.hard = 2, Server.OFF, True
        await region.apply("server", wanted.server, project_uid="p1")
        await region.until_state(wanted.server.uid, Server.STOPPING)
        await stack.enter_async_context(cloud.agent(port=port))
        await region.until_state(wanted.server.uid, Server.STOPPED)
        assert region.host(host.uid).status.state == Host.UP
        assert not _condition(region.server(wanted.server.uid), "HostAnswers").type
