"""An agent of an older version runs on with what it has, takes nothing new, and is named with what it lacks."""

import pytest

import agent.host
from kumo.api.cell.v1.cell_pb2 import Verdict
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.capabilities import capabilities
from tests.controller.cell.up import up
from tests.controller.cell.world import Cloud, bundle


def compatible(host: Host) -> Condition:
    return next((one for one in host.status.conditions if one.type == "Compatible"), Condition())


async def test_an_older_agent_is_named_with_what_it_lacks_and_takes_no_new_server(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    # What an agent says of itself is all that a leader knows of its version.
    monkeypatch.setattr(agent.host, "capabilities", lambda roles: [one for one in capabilities(roles) if one != "Compute/AttachConsole"])
    async with up(cloud, "h1") as world:
        region, wanted = world.region, bundle(base=world.base)
        uid = world.hosts["h1"].uid
        await region.until(lambda: compatible(region.host(uid)).status == Condition.FALSE, "the host is not compatible")
        said = compatible(region.host(uid))
        assert said.reason == "AGENT_TOO_OLD" and "Compute/AttachConsole" in said.message and "upgrade" in said.fix
        await region.push(wanted)
        await region.until(lambda: region.fact(wanted.server.uid).verdict.answer == Verdict.WAITING, "the server waits")
        assert region.server(wanted.server.uid).status.state != Server.ACTIVE


async def test_an_agent_of_the_same_version_is_compatible(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        uid = world.hosts["h1"].uid
        await world.region.until(lambda: compatible(world.region.host(uid)).status == Condition.TRUE, "the host is compatible")
