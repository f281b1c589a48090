"""Nothing is left of an agent's disk: it tells what it has, refuses new commands soon and says why, obeys a new leader and takes things
away, keeps what it took, and takes commands again when there is room.
"""

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.reserve import Reserve
from kumo.api.agent.v1.agent_pb2 import DescribeHostRequest, Facts
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest, ServerFacts
from kumo.api.agent.v1.network_pb2 import ApplyNetworkRequest, DesiredNetwork
from kumo.api.type.v1.stamp_pb2 import Term
from kumo.errors import Unavailable
from kumo.ids import new_uid
from tests.agent.process import Agent, Leader, leader_of, running_agent
from tests.agent.test_main import make_server, runs
from tests.pki import Pki

# A promise of one second, asserted at three times its figure.
SOON_S = 3.0
DISK_MIB = 8


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk for what the agent is told. Its fake world, files as well, is on another."""
    place = tmp_path / "state" / "kept"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
async def agent(tmp_path: Path, pki: Pki, disk: Path) -> AsyncIterator[Agent]:
    async with running_agent(Agent(tmp_path, pki)) as made:
        yield made


def fill(disk: Path) -> Path:
    """Leave not a byte of the disk, and return what to remove to have it back."""
    ballast = disk / "ballast"
    for size in (1 << 16, 1 << 12):
        with ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(size))
    return ballast


def a_network(leader: Leader) -> ApplyNetworkRequest:
    net = DesiredNetwork(name="projects/p/networks/n", vni=78, mtu=1450, cidrs=["10.1.0.0/24"])
    return ApplyNetworkRequest(stamp=leader.stamp(), uid=new_uid(), desired=net)


async def refusal(leader: Leader) -> Unavailable:
    began = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        await leader.network.ApplyNetwork(a_network(leader))
    assert time.monotonic() - began < SOON_S
    return refused.value


def is_absent(facts: Facts, uid: str) -> bool:
    return any(said.uid == uid and said.power == ServerFacts.ABSENT for said in facts.servers)


async def test_an_agent_without_room_refuses_and_goes_on_telling_and_takes_commands_again_by_itself(agent: Agent, disk: Path) -> None:
    async with leader_of(agent) as leader:
        uid, _ = await make_server(leader)
        await leader.until(lambda facts: runs(facts, uid))
        ballast = fill(disk)
        refused = await refusal(leader)
        assert refused.reason == "STATE_NOT_WRITTEN"
        assert "No space left" in refused.message and refused.fix
        await leader.until(lambda facts: runs(facts, uid))
        await leader.agents.DescribeHost(DescribeHostRequest())
        ballast.unlink()
        await leader.network.ApplyNetwork(a_network(leader))


async def test_what_was_taken_is_there_after_a_kill_on_a_full_disk_and_a_new_leader_is_obeyed(agent: Agent, disk: Path) -> None:
    async with leader_of(agent) as leader:
        uid, _ = await make_server(leader)
        await leader.until(lambda facts: runs(facts, uid))
        ballast = fill(disk)
        await refusal(leader)
    await agent.end()
    await agent.start()
    async with leader_of(agent) as next_one:
        next_one.term.CopyFrom(Term(incarnation=leader.term.incarnation, create_revision=leader.term.create_revision + 1))
        await next_one.until(lambda facts: runs(facts, uid))
        await refusal(next_one)
        # What makes room is no more than a small file: that it shall go.
        await next_one.compute.ApplyServer(ApplyServerRequest(stamp=next_one.stamp(2), uid=uid))
        ballast.unlink()
        await next_one.until(lambda facts: is_absent(facts, uid))
        await next_one.network.ApplyNetwork(a_network(next_one))


def test_what_is_kept_back_is_given_piece_by_piece_and_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    reserve = Reserve(path, 48 << 10)
    assert not reserve.give()
    reserve.take()
    assert path.stat().st_blocks * 512 >= 48 << 10
    assert [reserve.give() for _ in range(4)] == [True, True, True, False]
    reserve.take()
    assert path.stat().st_size == 48 << 10
