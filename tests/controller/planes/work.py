"""What users and operators ask of the planes' processes, through whichever controller of the region a test names."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from kumo.api.compute.v1 import flavor_pb2, server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1 import host_pb2, pool_pb2
from kumo.api.image.v1 import image_pb2
from kumo.api.network.v1 import network_pb2
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.errors import NotFound, Unavailable
from tests.controller.planes.processes import CELL, DEADLINE_S, until
from tests.controller.region.region_process import PROJECT, SMALL, Api, subnet_request

IMAGE_BYTES = 1 << 18


async def patiently(make: Callable[[], Awaitable[Any]], deadline_s: float = DEADLINE_S) -> Any:
    """Return what `make` returns; what is refused for now is asked again, as every client has to."""
    async with asyncio.timeout(deadline_s):
        while True:
            try:
                return await make()
            except Unavailable:
                await asyncio.sleep(0.1)


async def furnish(first: Api, second: Api, agents: dict[str, str]) -> None:
    """Make all that servers need, each thing through one controller of the region and seen by the other; `agents` are their addresses."""
    pool = pool_pb2.Pool(spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.FAKE, default=True))
    await patiently(lambda: first.pools.CreatePool(pool_pb2.CreatePoolRequest(pool_id="main", pool=pool)))
    for number, (host, address) in enumerate(agents.items()):
        await create_host((first, second)[number % 2], host, address)
    flavor = flavor_pb2.Flavor(spec=SMALL)
    await patiently(lambda: second.flavors.CreateFlavor(flavor_pb2.CreateFlavorRequest(flavor_id="small", flavor=flavor)))
    network = network_pb2.Network(spec=network_pb2.Network.Spec())
    made = network_pb2.CreateNetworkRequest(parent=PROJECT, network_id="net", network=network)
    await patiently(lambda: first.networks.CreateNetwork(made))
    await patiently(lambda: _once_seen(second.subnets.CreateSubnet(subnet_request("sub", "10.0.0.0/24"))))
    for host in agents:
        await until(partial(host_is, second, host, host_pb2.Host.UP), what=f"{host} is UP")
    await upload(first, second, "deb")


async def _once_seen(call: Any) -> Any:
    try:
        return await call
    except NotFound as error:
        raise Unavailable("NOT_SEEN_YET", error.message) from error


async def create_host(api: Api, host: str, address: str) -> None:
    spec = host_pb2.Host.Spec(cell=CELL, agent_address=address, tunnel_address="127.0.0.1", storage_address="127.0.0.1")
    request = host_pb2.CreateHostRequest(host_id=host, host=host_pb2.Host(spec=spec))
    await patiently(lambda: api.hosts.CreateHost(request))


async def host_is(api: Api, host: str, state: "host_pb2.Host.State.ValueType") -> bool:
    return bool((await api.hosts.GetHost(host_pb2.GetHostRequest(name=f"hosts/{host}"))).status.state == state)


async def upload(maker: Api, sender: Api, name: str) -> None:
    """Make an image through one controller and send its bytes through another."""
    image = image_pb2.Image(spec=image_pb2.Image.Spec(format=image_pb2.Image.RAW, size_bytes=IMAGE_BYTES))
    made = await patiently(lambda: maker.images.CreateImage(image_pb2.CreateImageRequest(parent=PROJECT, image_id=name, image=image)))
    wanted = image_pb2.GetImageRequest(name=made.name)
    await patiently(lambda: _once_seen(sender.images.GetImage(wanted)))

    async def pieces() -> AsyncIterator[image_pb2.UploadImageRequest]:
        yield image_pb2.UploadImageRequest(name=made.name)
        yield image_pb2.UploadImageRequest(data=bytes(IMAGE_BYTES))

    async def send() -> int:
        answers = [answer async for answer in sender.images.UploadImage(pieces())]
        return int(answers[-1].received_bytes)

    assert await patiently(send) == IMAGE_BYTES

    async def is_active() -> bool:
        return bool((await maker.images.GetImage(wanted)).status.state == image_pb2.Image.ACTIVE)

    await until(is_active, what=f"{name} is ACTIVE")


def server_name(name: str) -> str:
    return f"{PROJECT}/servers/{name}"


async def server_is(api: Api, name: str, state: "Server.State.ValueType") -> bool:
    server = await api.server(name)
    return bool(server.status.state == state and server.status.observed_generation == server.generation)


async def until_state(api: Api, name: str, state: "Server.State.ValueType", deadline_s: float = DEADLINE_S) -> None:
    await until(partial(server_is, api, name, state), deadline_s, f"{name} is {Server.State.Name(state)}")


async def until_gone(api: Api, name: str, deadline_s: float = DEADLINE_S) -> None:
    async def is_gone() -> bool:
        try:
            await api.server(name)
        except NotFound:
            return True
        return False

    await until(is_gone, deadline_s, f"{name} is gone")


def condition(server: Server, kind: str) -> Condition | None:
    return next((one for one in server.status.conditions if one.type == kind), None)


def verb(kind: str, name: str, **fields: Any) -> Any:
    return getattr(server_pb2, f"{kind}ServerRequest")(name=server_name(name), **fields)
