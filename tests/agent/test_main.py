"""The whole agent as a process: what its leader sees, who may command it, what outlives its death."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kumo.api.agent.v1.agent_pb2 import AcknowledgeEndsRequest, DescribeHostRequest, Facts, WatchFactsRequest
from kumo.api.agent.v1.compute_pb2 import (
    ApplyServerRequest,
    AttachConsoleRequest,
    DesiredDisk,
    DesiredNic,
    DesiredServer,
    ReadConsoleLogRequest,
    ServerFacts,
)
from kumo.api.agent.v1.network_pb2 import ApplyNetworkRequest, ApplyPortRequest, DesiredNetwork, DesiredPort
from kumo.api.agent.v1.storage_pb2 import EnsureVolumeRequest, Owner, PoolReference, SetOwnerRequest
from kumo.api.type.v1.stamp_pb2 import Epoch, Term
from kumo.errors import Error, FailedPrecondition, PermissionDenied, Unavailable
from kumo.ids import new_uid
from kumo.rpc.client import opened
from tests.agent.process import Agent, Leader, leader_of, running_agent
from tests.pki import Pki

POOL = PoolReference(uid=new_uid(), driver="fake")


@pytest.fixture
async def agent(tmp_path: Path, pki: Pki) -> AsyncIterator[Agent]:
    async with running_agent(Agent(tmp_path, pki)) as made:
        yield made


async def make_server(leader: Leader) -> tuple[str, ApplyServerRequest]:
    """Do what a leader does for a new server, in its order; the network comes last. Return the server's uid and its command."""
    uid, volume, network, port = (new_uid() for _ in range(4))
    await leader.storage.EnsureVolume(EnsureVolumeRequest(stamp=leader.stamp(), uid=volume, pool=POOL, size_bytes=1 << 20))
    owner = Owner(server_uid=uid, host="h1", epoch=Epoch(cell=1, host=1))
    await leader.storage.SetOwner(SetOwnerRequest(stamp=leader.stamp(), uid=volume, pool=POOL, owner=owner))
    desired = DesiredServer(
        name="projects/p/servers/s",
        hostname="s",
        vcpus=1,
        memory_mib=64,
        disks=[DesiredDisk(volume_uid=volume, pool=POOL)],
        nics=[DesiredNic(port_uid=port, mac="52:54:00:00:00:01", mtu=1450)],
        running=True,
    )
    command = ApplyServerRequest(stamp=leader.stamp(), uid=uid, desired=desired)
    await leader.compute.ApplyServer(command)
    wanted = DesiredPort(
        name="projects/p/ports/p", network_uid=network, mac="52:54:00:00:00:01", address="10.0.0.5", prefix_length=24, server_uid=uid
    )
    await leader.network.ApplyPort(ApplyPortRequest(stamp=leader.stamp(), uid=port, desired=wanted))
    net = DesiredNetwork(name="projects/p/networks/n", vni=77, mtu=1450, cidrs=["10.0.0.0/24"])
    await leader.network.ApplyNetwork(ApplyNetworkRequest(stamp=leader.stamp(), uid=network, desired=net))
    return uid, command


async def fetch(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = (await reader.read()).decode()
    writer.close()
    return answer


def runs(facts: Facts, uid: str) -> bool:
    return any(said.uid == uid and said.power == ServerFacts.RUNNING and said.settled for said in facts.servers)


async def test_a_server_is_made_told_of_and_taken_away(agent: Agent) -> None:
    async with leader_of(agent) as leader:
        uid, _ = await make_server(leader)
        await leader.until(lambda facts: runs(facts, uid))
        host = (await leader.agents.DescribeHost(DescribeHostRequest())).host
        assert (host.host, host.cell, host.virt_type, list(host.problems)) == ("h1", "a", "qemu", [])
        assert host.term == leader.term and host.vcpus > 0 and host.memory_mib > 0
        assert host.versions["hypervisor"] == "fake"
        await leader.compute.ApplyServer(ApplyServerRequest(stamp=leader.stamp(2), uid=uid))
        await leader.until(lambda facts: any(said.uid == uid and said.power == ServerFacts.ABSENT for said in facts.servers))
        await leader.agents.AcknowledgeEnds(AcknowledgeEndsRequest(term=leader.term, uids=[uid]))


async def test_what_each_server_takes_is_on_a_page_of_its_own(agent: Agent) -> None:
    async with leader_of(agent) as leader:
        uid, command = await make_server(leader)
        await leader.until(lambda facts: runs(facts, uid))
        page = await fetch(agent.metrics_port, "/metrics/servers")
        assert f'kumo_server_memory_bytes{{project="{command.desired.project_uid}",server="{uid}"}}' in page
        assert f'kumo_server_disk_read_bytes_total{{project="",server="{uid}",volume="{command.desired.disks[0].volume_uid}"}} 512' in page
        assert uid not in await fetch(agent.metrics_port, "/metrics")


async def test_the_first_messages_hold_all_and_then_a_heartbeat_comes_each_second(agent: Agent) -> None:
    async with leader_of(agent) as leader:
        uid, _ = await make_server(leader)
        await leader.until(lambda facts: runs(facts, uid))
        told: list[Facts] = []
        async with asyncio.timeout(20), opened(leader.agents.WatchFacts(WatchFactsRequest(term=leader.term))) as messages:
            async for facts in messages:
                told.append(facts)
                if sum(not (one.HasField("host") or one.servers or one.ports) for one in told) == 3:
                    break
        complete = next(index for index, one in enumerate(told) if one.complete)
        before = told[: complete + 1]
        assert any(runs(one, uid) for one in before) and any(one.ports for one in before) and told[0].HasField("host")
        assert sum(one.complete for one in told) == 1
        beats = [one.send_time.ToMicroseconds() for one in told[-2:]]
        assert 0.9e6 < beats[1] - beats[0] < 3e6


async def test_what_was_kept_is_in_force_again_after_the_agent_was_killed(agent: Agent) -> None:
    async with leader_of(agent) as leader:
        uid, _ = await make_server(leader)
        await leader.until(lambda facts: runs(facts, uid))
    await agent.end()
    await agent.start()
    async with leader_of(agent) as again:
        again.term.CopyFrom(leader.term)
        facts = await again.until(lambda facts: runs(facts, uid))
        assert next(said for said in facts.servers if said.uid == uid).held.term == leader.term


async def test_a_deposed_leader_is_told_in_its_calls_and_in_its_watch(agent: Agent) -> None:
    async with leader_of(agent) as old, leader_of(agent) as new:
        _, command = await make_server(old)
        new.term.CopyFrom(Term(incarnation=old.term.incarnation, create_revision=old.term.create_revision + 1))
        with pytest.raises(FailedPrecondition) as deposed:
            async with asyncio.timeout(20), opened(old.agents.WatchFacts(WatchFactsRequest(term=old.term))) as messages:
                async for _ in messages:
                    await new.until(lambda facts: True)
        assert deposed.value.reason == "STALE_COMMAND"
        command.stamp.sequence += 100
        with pytest.raises(FailedPrecondition) as refused:
            await old.compute.ApplyServer(command)
        assert refused.value.metadata["behind"] == "term"
        assert refused.value.metadata["held_generation"] == "1"


@pytest.mark.parametrize(("role", "cell"), [("agent", "a"), ("controller", "b")])
async def test_only_controllers_of_its_own_cell_are_obeyed(agent: Agent, role: str, cell: str) -> None:
    async with leader_of(agent, role, cell) as stranger:
        with pytest.raises((PermissionDenied, Unavailable)):
            await stranger.agents.DescribeHost(DescribeHostRequest())


async def test_a_console_is_read_by_many_and_typed_into(agent: Agent) -> None:
    async with leader_of(agent) as leader:
        uid, _ = await make_server(leader)
        await leader.until(lambda facts: runs(facts, uid))
        viewers: list[Any] = [leader.compute.AttachConsole() for _ in range(2)]
        for viewer in viewers:
            await viewer.write(AttachConsoleRequest(uid=uid))
        await viewers[0].write(AttachConsoleRequest(input=b"hello"))
        async with asyncio.timeout(20):
            for viewer in viewers:
                seen = b""
                while b"hello" not in seen:
                    seen += (await viewer.read()).output
                assert seen.startswith(b"\r\nstub ready")
                viewer.cancel()
        pieces: Any = leader.compute.ReadConsoleLog(ReadConsoleLogRequest(uid=uid, tail_bytes=5))
        async with opened(pieces):
            async for piece in pieces:
                assert piece.output == b"hello"
                break


async def test_an_unknown_key_in_the_configuration_is_refused_by_name(tmp_path: Path, pki: Pki) -> None:
    agent = Agent(tmp_path, pki)
    agent.sections += "colour = 1\n"
    await agent.start()
    assert agent.process is not None
    async with asyncio.timeout(20):
        assert await agent.process.wait() == 2
    assert "compute.colour" in agent.log()


async def test_it_stops_when_asked_to(agent: Agent) -> None:
    async with leader_of(agent) as leader:
        with contextlib.suppress(Unavailable):
            await leader.agents.DescribeHost(DescribeHostRequest())
    assert await agent.end(signal.SIGTERM) == 0
    assert "stack" not in agent.log()


async def test_a_role_that_is_switched_off_says_how_to_have_it(tmp_path: Path, pki: Pki) -> None:
    async with running_agent(Agent(tmp_path, pki, roles=("network", "storage"))) as agent, leader_of(agent) as leader:
        with pytest.raises(Error) as refused:
            await leader.compute.ApplyServer(ApplyServerRequest(stamp=leader.stamp(), uid=new_uid()))
        assert refused.value.reason == "SERVICE_DISABLED"
        assert "compute" in refused.value.fix and "`roles`" in refused.value.fix and "h1" in refused.value.fix
