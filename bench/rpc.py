"""How many GetServer a second a listener answers over TLS with 64 in flight, beside a bare grpc.aio echo of the same size.

Both servers run in processes of their own on one core, the one client on another, in turns; the row's ratio is what the whole edge
of Kumo leaves of gRPC's own rate.

usage: python -m bench.rpc [--json]
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from bench.results import compared, hand_in
from kumo.api.compute.v1 import server_pb2, server_pb2_grpc
from kumo.authority import issue_for, new_plane, new_root
from kumo.identity import REGION_PLANE, Identity
from kumo.rpc.identity import everyone_is_operator
from kumo.rpc.server import Server
from kumo.tls import ServerTls, TlsFiles

IN_FLIGHT = 64
ROUNDS = 7
ROUND_S = 2.0
METHOD = f"/{server_pb2.DESCRIPTOR.services_by_name['Servers'].full_name}/GetServer"
WHO = Identity(REGION_PLANE, "bench", "controller", "h1")
NAME = "projects/default/servers/hello"


def record() -> server_pb2.Server:
    """Return a server as a client sees it: active, with an address and a few labels."""
    nic = server_pb2.Server.Nic(
        network="projects/default/networks/n", network_uid=_uid(1), port="projects/default/ports/p", port_uid=_uid(2)
    )
    spec = server_pb2.Server.Spec(
        flavor="flavors/small",
        flavor_uid=_uid(3),
        image="projects/default/images/debian",
        image_uid=_uid(4),
        nics=[nic],
        vcpus=2,
        memory_mib=2048,
        disk_gib=10,
        root_volume="projects/default/volumes/hello-root",
        root_volume_uid=_uid(5),
    )
    spec.power = server_pb2.Server.RUNNING
    status = server_pb2.Server.Status(state=server_pb2.Server.ACTIVE, observed_generation=1, power=server_pb2.Server.RUNNING)
    status.addresses.add(
        port="projects/default/ports/p", network="projects/default/networks/n", address="10.0.0.5", mac="fa:16:3e:01:02:03"
    )
    status.conditions.add(type="GuestReady", message="the guest reported ready", observed_generation=1)
    status.host, status.host_uid, status.cell_epoch, status.host_epoch = "hosts/h1", _uid(6), 1, 1
    labels = {"app": "web", "tier": "front"}
    return server_pb2.Server(name=NAME, uid=_uid(7), etag="1", generation=1, spec=spec, status=status, labels=labels)


def _uid(number: int) -> str:
    return f"0190f3a5-0000-7000-8000-{number:012d}"


class Servers(server_pb2_grpc.ServersServicer):
    """Answers a get as a mirror does: out of bytes, decoded for each call."""

    def __init__(self) -> None:
        self._records = {NAME: record().SerializeToString()}

    async def GetServer(self, request: server_pb2.GetServerRequest, context: Any) -> server_pb2.Server:
        return server_pb2.Server.FromString(self._records[request.name])


async def serve(kind: str, folder: Path) -> None:
    """Listen until killed; the port goes to stdout."""
    files = TlsFiles.in_folder(folder, "server")
    if kind == "kumo":
        server = Server("127.0.0.1:0", ServerTls(files, require_client=False), everyone_is_operator)
        server.add(server_pb2_grpc.add_ServersServicer_to_server, Servers())  # type: ignore[abstract]  # the rest stays as generated
        print(await server.start(), flush=True)
    else:
        bare = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        bare.add_registered_method_handlers("bench.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(_echo)})
        read = files.read()
        print(bare.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(read.own.key, read.own.cert)])), flush=True)
        await bare.start()
    await asyncio.Event().wait()


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


@asynccontextmanager
async def served(kind: str, folder: Path) -> AsyncIterator[int]:
    """Run a server in a process of its own, and yield its port."""
    command = [sys.executable, "-m", "bench.rpc", "serve", kind, str(folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


async def rate(port: int, folder: Path, method: str, request: bytes) -> float:
    """Return answers a second over one new connection; both sides of the client's work are the same for every server."""
    credentials = grpc.ssl_channel_credentials((folder / "ca.crt").read_bytes())
    options = [("grpc.ssl_target_name_override", WHO.dns), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        ask: Any = channel.unary_unary(method, response_deserializer=server_pb2.Server.FromString)
        assert (await ask(request)).name == NAME
        count, end = 0, time.perf_counter() + ROUND_S

        async def one_after_another() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await ask(request)
                count += 1

        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(one_after_another())
        return count / (time.perf_counter() - started)


async def measure() -> None:
    with tempfile.TemporaryDirectory(prefix="kumo-bench-") as name:
        folder = Path(name)
        now = datetime.now(UTC)
        root = new_root("Kumo bench", now)
        plane = new_plane(root, WHO.cell, WHO.region, now)
        TlsFiles.in_folder(folder, "server").write(root.cert_pem, issue_for(plane, WHO, now, timedelta(days=1)))
        asked = server_pb2.GetServerRequest(name=NAME).SerializeToString()
        echoed = record().SerializeToString()
        values: list[float] = []
        baselines: list[float] = []
        async with served("bare", folder) as bare, served("kumo", folder) as kumo:
            pin(0)
            for _ in range(ROUNDS):
                baselines.append(await rate(bare, folder, "/bench.Echo/Echo", echoed))
                values.append(await rate(kumo, folder, METHOD, asked))
    hand_in([compared("rpc.get", "calls/s", values, baselines)])


def pin(which: int) -> None:
    """Stay on one core: the client on the first, servers on the last."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[which]})


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        pin(-1)
        asyncio.run(serve(sys.argv[2], Path(sys.argv[3])))
    else:
        asyncio.run(measure())


if __name__ == "__main__":
    main()
