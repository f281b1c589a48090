"""How many GetServer a second a region answers over TLS with 64 in flight, beside a bare grpc.aio echo of the same size.

The region is the real one, on an etcd of its own, with one server in it; both listeners run in processes of their own on one core,
the one client on another, in turns. The row's ratio is what all that Kumo does to a call leaves of gRPC's own rate.

Then the same for CreateServer, with a cloud of fake hosts behind (bench.accept): its ratio is over that same echo.

usage: python -m bench.rpc [--json]
"""

import asyncio
import gc
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

from bench.accept import SERVERS, rates
from bench.lab import enter_sandbox
from bench.results import Row, compared, hand_in
from controller.config import Config, RegionConfig
from controller.region.plane import Started, run_region
from kumo.api.compute.v1 import flavor_pb2, flavor_pb2_grpc, server_pb2, server_pb2_grpc
from kumo.api.fleet.v1 import pool_pb2, pool_pb2_grpc
from kumo.api.image.v1 import image_pb2, image_pb2_grpc
from kumo.api.network.v1 import network_pb2, network_pb2_grpc, subnet_pb2, subnet_pb2_grpc
from kumo.authority import issue_for, new_plane, new_root
from kumo.identity import REGION_PLANE, Identity
from kumo.rpc.client import channel
from kumo.tls import TlsFiles
from tests.etcd import cluster

IN_FLIGHT = 64
ROUNDS = 7
ROUND_S = 2.0
METHOD = f"/{server_pb2.DESCRIPTOR.services_by_name['Servers'].full_name}/GetServer"
WHO = Identity(REGION_PLANE, "bench", "controller", "h1")
PROJECT = "projects/default"
NAME = f"{PROJECT}/servers/hello"


async def serve_echo(folder: Path) -> None:
    """Answer with the bytes that were asked; the port goes to stdout."""

    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_registered_method_handlers("bench.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    own = TlsFiles.in_folder(folder, REGION_PLANE).read().own
    print(server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(own.key, own.cert)])), flush=True)
    await server.start()
    await server.wait_for_termination()


async def serve_region(folder: Path, store: str) -> None:
    """Run a region, put a server into it, and only then tell the port."""
    plane = RegionConfig(listen="127.0.0.1:0", store=[store], cells={})
    config = Config(region=WHO.region, host=WHO.host, tls=folder, metrics="127.0.0.1:0", region_plane=plane)
    started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_region(config, plane, started=started))
        at = await started
        async with channel(at.address, (folder / "ca.crt").read_bytes(), server_name=WHO.dns) as dialled:
            await furnish(at, dialled)
        gc.freeze()  # as controller.main does
        print(at.address.rpartition(":")[2], flush=True)


async def furnish(at: Started, dialled: grpc.aio.Channel) -> None:
    """Create a server through the API, and report of it what a cell would."""
    pool = pool_pb2.Pool(spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.FAKE, default=True))
    await pool_pb2_grpc.PoolsStub(dialled).CreatePool(pool_pb2.CreatePoolRequest(pool_id="main", pool=pool))
    flavor = flavor_pb2.Flavor(spec=flavor_pb2.Flavor.Spec(vcpus=1, memory_mib=64, disk_gib=1))
    await flavor_pb2_grpc.FlavorsStub(dialled).CreateFlavor(flavor_pb2.CreateFlavorRequest(flavor_id="small", flavor=flavor))
    network = network_pb2.CreateNetworkRequest(
        parent=PROJECT, network_id="net", network=network_pb2.Network(spec=network_pb2.Network.Spec())
    )
    await network_pb2_grpc.NetworksStub(dialled).CreateNetwork(network)
    subnet = subnet_pb2.Subnet(spec=subnet_pb2.Subnet.Spec(network=f"{PROJECT}/networks/net", cidr="10.0.0.0/24"))
    await subnet_pb2_grpc.SubnetsStub(dialled).CreateSubnet(subnet_pb2.CreateSubnetRequest(parent=PROJECT, subnet_id="sub", subnet=subnet))
    file = image_pb2.Image(spec=image_pb2.Image.Spec(format=image_pb2.Image.RAW, size_bytes=8))
    image = image_pb2.CreateImageRequest(parent=PROJECT, image_id="deb", image=file)
    made = await image_pb2_grpc.ImagesStub(dialled).CreateImage(image)
    made.status.state, made.status.observed_generation = image_pb2.Image.ACTIVE, 1
    await report(at, at.region.tables.images, made)
    nics = [server_pb2.Server.Nic(network=f"{PROJECT}/networks/net")]
    spec = server_pb2.Server.Spec(flavor="flavors/small", image=made.name, nics=nics)
    server = server_pb2.Server(spec=spec, labels={"app": "web", "tier": "front"})
    request = server_pb2.CreateServerRequest(parent=PROJECT, server_id="hello", server=server)
    created = await server_pb2_grpc.ServersStub(dialled).CreateServer(request)
    created.status.state, created.status.observed_generation, created.status.power = server_pb2.Server.ACTIVE, 1, server_pb2.Server.RUNNING
    created.status.host, created.status.virt_type = "hosts/h1", "kvm"
    created.status.addresses.add(port=f"{PROJECT}/ports/p", network=f"{PROJECT}/networks/net", address="10.0.0.5", mac="fa:16:3e:01:02:03")
    created.status.conditions.add(type="GuestReady", reason="REPORTED", message="the guest reported ready", observed_generation=1)
    await report(at, at.region.tables.servers, created)


async def report(at: Started, table: Any, record: Any) -> None:
    """Write a status as the leader does when a cell reports it."""
    txn = at.region.plane.txn()
    txn.write_status(table, record.uid, record)
    await at.region.plane.caught_up(await txn.commit())


@asynccontextmanager
async def served(kind: str, *arguments: str) -> AsyncIterator[int]:
    """Run a listener in a process of its own, and yield its port."""
    command = [sys.executable, "-m", "bench.rpc", kind, *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


async def rate(port: int, roots: bytes, method: str, request: bytes) -> tuple[float, bytes]:
    """Return answers a second over one new connection, and one answer; the client's work is the same for every listener."""
    options = [("grpc.ssl_target_name_override", WHO.dns), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(roots), options=options) as dialled:
        ask: Any = dialled.unary_unary(method, response_deserializer=server_pb2.Server.FromString)
        answer = await ask(request)
        assert answer.name == NAME
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
        return count / (time.perf_counter() - started), answer.SerializeToString()


async def measure() -> None:
    asked = server_pb2.GetServerRequest(name=NAME).SerializeToString()
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="kumo-bench-") as name, cluster() as store:
        folder = Path(name)
        now = datetime.now(UTC)
        root = new_root("Kumo bench", now)
        pem = issue_for(new_plane(root, WHO.cell, WHO.region, now), WHO, now, timedelta(days=1))
        TlsFiles.in_folder(folder, REGION_PLANE).write(root.cert_pem, pem)
        async with served("echo", name) as echo, served("region", name, store.addresses[0]) as region:
            cores = os.sched_getaffinity(0)
            pin(0)
            for _ in range(ROUNDS):
                value, answer = await rate(region, root.cert_pem, METHOD, asked)
                baseline, _ = await rate(echo, root.cert_pem, "/bench.Echo/Echo", answer)
                pairs.append((value, baseline))
            os.sched_setaffinity(0, cores)
    get = compared("rpc.get", "calls/s", *zip(*pairs, strict=True))
    found = await rates()
    assert get.baseline is not None
    create = Row("rpc.create", round(found.accepted, 1), "calls/s", SERVERS, get.baseline, round(found.accepted / get.baseline, 3))
    hand_in([get, create, Row("rpc.create_active_per_s", round(found.active, 1), "servers/s", SERVERS)])


def pin(which: int) -> None:
    """Stay on one core: the client on the first, listeners on the last."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[which]})


def main() -> None:
    match sys.argv[1:]:
        case ["echo", folder]:
            pin(-1)
            asyncio.run(serve_echo(Path(folder)))
        case ["region", folder, store]:
            pin(-1)
            asyncio.run(serve_region(Path(folder), store))
        case _:
            enter_sandbox("bench.rpc")
            asyncio.run(measure())


if __name__ == "__main__":
    main()
