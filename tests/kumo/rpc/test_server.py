"""The listener: its certificates, its address, its health, and its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kumo.api.compute.v1 import server_pb2, server_pb2_grpc
from kumo.api.storage.v1 import volume_pb2, volume_pb2_grpc
from kumo.errors import Error, FailedPrecondition, Internal, Unavailable
from kumo.rpc.client import channel
from kumo.rpc.identity import PeerRule, Peers, everyone_is_operator
from kumo.rpc.server import INTERNAL, PUBLIC, Server
from kumo.tls import Credentials, ServerTls, TlsFiles
from tests.kumo.rpc.doubles import Answers, call, serving
from tests.pki import Pki

SERVERS = server_pb2.DESCRIPTOR.services_by_name["Servers"]
GET = SERVERS.methods_by_name["GetServer"]
ASK = server_pb2.GetServerRequest(name="projects/p/servers/s")


class Named(server_pb2_grpc.ServersServicer):
    """Answers a get with what was asked, once its gate is open, and offers nothing else yet."""

    def __init__(self) -> None:
        self.gate, self.inside = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def GetServer(
        self, request: server_pb2.GetServerRequest, context: grpc.aio.ServicerContext[server_pb2.GetServerRequest, server_pb2.Server]
    ) -> server_pb2.Server:
        self.inside.set()
        await self.gate.wait()
        return server_pb2.Server(name=request.name)


def listener(tls: ServerTls, address: str = "127.0.0.1:0", servicer: Named | None = None) -> Server:
    servicer = servicer or Named()  # type: ignore[abstract]  # the rest stays as it was generated
    server = Server(
        address,
        tls,
        Peers([PeerRule("a", "local")]) if tls.require_client else everyone_is_operator,
        port=INTERNAL if tls.require_client else PUBLIC,
    )
    server.add(server_pb2_grpc.add_ServersServicer_to_server, servicer)
    return server


async def test_certificates_and_roots_change_without_a_restart(pki: Pki, tmp_path: Path) -> None:
    old, new = Pki(tmp_path), Pki(tmp_path)
    files = TlsFiles.in_folder(tmp_path, "agent")
    agent = old.identity("a", "agent")
    files.write(old.root.cert_pem, old.pem(agent))
    tls = ServerTls(files)
    async with listener(tls) as server:

        async def ask(credentials: Credentials) -> server_pb2.Server:
            async with channel(server.address, credentials, server_name=agent.dns) as dialled:
                return await server_pb2_grpc.ServersStub(dialled).GetServer(ASK, timeout=10)

        assert (await ask(old.credentials("a", "controller"))).name == ASK.name
        with pytest.raises(Unavailable):
            await ask(new.credentials("a", "controller"))
        files.cert.write_text("nonsense")
        await tls.reload()
        await ask(old.credentials("a", "controller"))
        files.write(new.root.cert_pem, new.pem(agent))
        await tls.reload()
        assert (await ask(new.credentials("a", "controller"))).name == ASK.name
        with pytest.raises(Unavailable):
            await ask(old.credentials("a", "controller"))


@pytest.mark.parametrize("spoil", ["absent", "nonsense"])
def test_files_that_cannot_be_loaded_are_named(pki: Pki, tmp_path: Path, spoil: str) -> None:
    files = TlsFiles.in_folder(tmp_path, "agent")
    files.write(pki.root.cert_pem, pki.pem(pki.identity("a", "agent")))
    files.cert.unlink() if spoil == "absent" else files.cert.write_text("nonsense")
    with pytest.raises(FailedPrecondition) as caught:
        ServerTls(files)
    assert str(files.cert) in caught.value.message and caught.value.fix


def test_only_the_owner_may_read_a_key(pki: Pki) -> None:
    assert pki.files("a", "agent", "h7").key.stat().st_mode & 0o777 == 0o600


def test_a_listener_without_client_certificates_stays_on_loopback(pki: Pki) -> None:
    tls = pki.server_tls("region", "controller", require_client=False)
    for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:0"):
        with pytest.raises(FailedPrecondition) as caught:
            listener(tls, address)
        assert caught.value.reason == "LISTENER_OPEN"


async def test_two_listeners_never_share_a_port(pki: Pki) -> None:
    tls = pki.server_tls("a", "agent")
    async with listener(tls) as first:
        second = listener(tls, first.address)
        with pytest.raises(FailedPrecondition) as caught:
            await second.start()
        assert caught.value.reason == "ADDRESS_TAKEN"
        await second.stop()


async def test_health_says_whether_it_serves(pki: Pki) -> None:
    server = listener(pki.server_tls("region", "controller", require_client=False))
    async with server, channel(server.address, pki.root.cert_pem, server_name=pki.identity("region", "controller").dns) as dialled:
        health = health_pb2_grpc.HealthStub(dialled)
        for name in ("", SERVERS.full_name):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == health_pb2.HealthCheckResponse.SERVING
        await server.set_serving(False, SERVERS.full_name)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVERS.full_name))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_method_that_a_servicer_lacks_is_unimplemented(pki: Pki) -> None:
    server = listener(pki.server_tls("region", "controller", require_client=False))
    async with server, channel(server.address, pki.root.cert_pem, server_name=pki.identity("region", "controller").dns) as dialled:
        with pytest.raises(Internal) as caught:
            await call(dialled, SERVERS.methods_by_name["DeleteServer"], server_pb2.DeleteServerRequest(name=ASK.name))
        assert caught.value.reason == "METHOD_UNKNOWN"
        with pytest.raises(Internal):
            await call(dialled, SERVERS.methods_by_name["WatchServers"], server_pb2.WatchServersRequest(parent="projects/p"))


@dataclass
class InFlight:
    """A server, a connection to it, and a call that waits in it until the gate is open."""

    server: Server
    dialled: grpc.aio.Channel
    gate: asyncio.Event
    asked: "asyncio.Future[server_pb2.Server]"


@asynccontextmanager
async def in_flight(pki: Pki) -> AsyncIterator[InFlight]:
    servicer = Named()  # type: ignore[abstract]  # the rest stays as it was generated
    servicer.gate.clear()
    server = listener(pki.server_tls("region", "controller", require_client=False), servicer=servicer)
    name = pki.identity("region", "controller").dns
    await server.start()
    async with channel(server.address, pki.root.cert_pem, server_name=name) as dialled, asyncio.timeout(30):
        asked = asyncio.ensure_future(call(dialled, GET, ASK))
        await servicer.inside.wait()
        yield InFlight(server, dialled, servicer.gate, asked)


async def test_a_call_in_flight_ends_before_the_server_does(pki: Pki) -> None:
    async with in_flight(pki) as one, asyncio.TaskGroup() as tasks:
        stopping = tasks.create_task(one.server.stop(grace_s=20))
        health = health_pb2_grpc.HealthStub(one.dialled)
        with pytest.raises(Unavailable):
            while True:
                await health.Check(health_pb2.HealthCheckRequest())
        one.gate.set()
        assert (await one.asked).name == ASK.name
        await stopping


async def test_a_call_that_does_not_end_in_time_is_told_that_the_process_ends(pki: Pki) -> None:
    async with in_flight(pki) as one:
        await one.server.stop(grace_s=0.1)
        with pytest.raises(Unavailable) as caught:
            await one.asked
        assert caught.value.reason == "PROCESS_ENDING"


async def test_a_silent_connection_is_cut(pki: Pki) -> None:
    async with listener(pki.server_tls("a", "agent")) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound_port)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_request_beyond_the_limit_of_the_port_is_refused(pki: Pki) -> None:
    async with serving(pki, [SERVERS], Answers()) as dialled:
        request = server_pb2.GetServerRequest(name="x" * (5 << 20))
        with pytest.raises(Exception, match="larger than max") as caught:
            await call(dialled, GET, request)
        assert type(caught.value).__name__ == "ResourceExhausted"


async def test_a_service_that_is_switched_off_says_how_to_have_it(pki: Pki) -> None:
    server = listener(pki.server_tls("a", "agent"))
    server.disable(volume_pb2.DESCRIPTOR.services_by_name["Volumes"], "name it in the configuration")
    name = pki.identity("a", "agent").dns
    async with server, channel(server.address, pki.credentials("a", "controller"), server_name=name) as dialled:
        with pytest.raises(Error) as refused:
            await volume_pb2_grpc.VolumesStub(dialled).GetVolume(volume_pb2.GetVolumeRequest(name="projects/p/volumes/v"), timeout=10)
        assert (refused.value.reason, refused.value.fix) == ("SERVICE_DISABLED", "name it in the configuration")
        assert "kumo.api.storage.v1.Volumes" in refused.value.message
        with pytest.raises(Error) as raw:
            await volume_pb2_grpc.VolumesStub(dialled).WatchVolumes(volume_pb2.WatchVolumesRequest(parent="projects/p"), timeout=10).read()
        assert raw.value.reason == "SERVICE_DISABLED"
        assert isinstance(raw.value.__cause__, grpc.aio.AioRpcError) and raw.value.__cause__.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await server_pb2_grpc.ServersStub(dialled).GetServer(ASK, timeout=10)).name == ASK.name
