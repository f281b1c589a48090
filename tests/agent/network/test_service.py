"""The network servicer from the leader's side: commands are kept, answered with what is held, and refused with reasons."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.network.fake import FakeDriver
from agent.network.service import NetworkService
from kumo.api.agent.v1 import network_pb2_grpc
from kumo.api.agent.v1.network_pb2 import ApplyNetworkRequest, ApplyPortRequest, DesiredNetwork, DesiredPort, PortFacts
from kumo.errors import FailedPrecondition, InvalidArgument
from kumo.ids import new_uid
from kumo.rpc.client import channel
from kumo.rpc.identity import PeerRule, Peers
from kumo.rpc.server import INTERNAL, Server
from tests.agent.network.rig import Rig, running
from tests.pki import Pki


@dataclass
class Desk:
    """The leader's side."""

    stub: "network_pb2_grpc.NetworkAsyncStub"
    rig: Rig


@pytest.fixture
async def desk(pki: Pki, tmp_path: Path) -> AsyncIterator[Desk]:
    rig = Rig(tmp_path, FakeDriver(tmp_path / "fake.json"), responder=tmp_path / "nobody.sock")
    server = Server("127.0.0.1:0", pki.server_tls("a", "agent"), Peers([PeerRule("a", "local")]), port=INTERNAL)
    server.add(network_pb2_grpc.add_NetworkServicer_to_server, NetworkService(rig.network))
    async with running(rig), server:
        name = pki.identity("a", "agent").dns
        async with channel(server.address, pki.credentials("a", "controller"), server_name=name) as dialled:
            yield Desk(network_pb2_grpc.NetworkStub(dialled), rig)


def port(network: str, **changed: object) -> DesiredPort:
    desired = DesiredPort(
        name="projects/p/ports/one",
        network_uid=network,
        mac="02:aa:00:00:00:11",
        address="10.0.0.11",
        prefix_length=24,
        hostname="one",
        server_uid=new_uid(),
    )
    for name, value in changed.items():
        if isinstance(value, list):
            getattr(desired, name).extend(value)
        else:
            setattr(desired, name, value)
    return desired


async def test_commands_are_kept_answered_and_followed(desk: Desk) -> None:
    network, uid = new_uid(), new_uid()
    first = desk.rig.stamp()
    desired = DesiredNetwork(name="projects/p/networks/n", vni=65, mtu=1450, cidrs=["10.0.0.0/24"])
    assert (await desk.stub.ApplyNetwork(ApplyNetworkRequest(stamp=first, uid=network, desired=desired))).held == first
    command = ApplyPortRequest(stamp=desk.rig.stamp(), uid=uid, desired=port(network))
    said = (await desk.stub.ApplyPort(command)).facts
    assert (said.uid, said.held) == (uid, command.stamp)
    await desk.rig.until(uid, PortFacts.BOUND)
    assert (await desk.stub.ApplyPort(command)).facts.binding == PortFacts.BOUND  # applying twice is applying once
    await desk.stub.ApplyPort(ApplyPortRequest(stamp=desk.rig.stamp(), uid=uid))
    await desk.rig.until(uid, PortFacts.ABSENT)


async def test_an_older_command_is_refused(desk: Desk) -> None:
    network = new_uid()
    older, newer = desk.rig.stamp(), desk.rig.stamp()
    desired = DesiredNetwork(name="n", vni=65, mtu=1450)
    await desk.stub.ApplyNetwork(ApplyNetworkRequest(stamp=newer, uid=network, desired=desired))
    with pytest.raises(FailedPrecondition) as refused:
        await desk.stub.ApplyNetwork(ApplyNetworkRequest(stamp=older, uid=network))
    assert refused.value.reason == "STALE_COMMAND"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"mac": "nonsense"}, "desired.mac"),
        ({"mac": "03:aa:00:00:00:11"}, "desired.mac"),
        ({"address": "10.0.0.256"}, "desired.address"),
        ({"prefix_length": 33}, "desired.prefix_length"),
        ({"gateway": "nobody"}, "desired.gateway"),
        ({"dns_servers": ["192.0.2.53", "::1"]}, "desired.dns_servers"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_not_kept(desk: Desk, changed: dict[str, object], field: str) -> None:
    uid = new_uid()
    with pytest.raises(InvalidArgument) as refused:
        await desk.stub.ApplyPort(ApplyPortRequest(stamp=desk.rig.stamp(), uid=uid, desired=port(new_uid(), **changed)))
    assert refused.value.field == field
    assert uid not in desk.rig.ports.held
