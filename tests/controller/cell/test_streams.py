"""Bytes go between the region and the agents' hosts: images up, resumed where they ended, and consoles both ways."""

import os
from typing import Any

import pytest

from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.image.v1.image_pb2 import Image
from kumo.errors import FailedPrecondition, NotFound
from kumo.ids import new_uid
from tests.controller.cell.images import upload
from tests.controller.cell.up import Up, up
from tests.controller.cell.world import Cloud, bundle


def _image(world: Up, **spec: Any) -> Image:
    pool = world.base.pool
    asked = {"format": Image.RAW, "size_bytes": 3 << 20, "pool": pool.name, "pool_uid": pool.uid, **spec}
    return Image(name="projects/default/images/i", uid=new_uid(), generation=1, spec=Image.Spec(**asked))


async def test_an_upload_goes_on_where_it_ended_and_on_the_same_host(cloud: Cloud) -> None:
    async with up(cloud, "h1", "h2") as world:
        region, image = world.region, _image(world)
        await region.apply("image", image, epoch=0)
        await region.until(lambda: region.fact(image.uid).image.status.state == Image.PENDING, "it is PENDING")
        data = os.urandom(image.spec.size_bytes)
        kept = await upload(region, image, data[: 2 << 20])
        assert 0 < kept <= 2 << 20
        await region.until(lambda: region.fact(image.uid).image.status.state == Image.UPLOADING, "it is UPLOADING")
        assert await upload(region, image, data) == len(data)
        await region.until(lambda: region.fact(image.uid).image.status.state == Image.ACTIVE, "it is ACTIVE")
        assert region.fact(image.uid).image.status.virtual_size_bytes == len(data)
        with pytest.raises(FailedPrecondition) as refused:
            await upload(region, image, data)
        assert refused.value.reason == "IMAGE_NOT_OPEN"


async def test_a_file_that_is_not_what_was_declared_is_refused_with_the_reason_and_can_be_deleted(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        region, image = world.region, _image(world, size_bytes=1 << 20, sha256="0" * 64)
        await region.apply("image", image, epoch=0)
        await upload(region, image)
        await region.until(lambda: region.fact(image.uid).image.status.state == Image.FAILED, "it FAILED")
        why = region.fact(image.uid).image.status.conditions[0]
        assert (why.reason, bool(why.message), bool(why.fix)) == ("SHA256_MISMATCH", True, True)
        image.generation = 2
        image.delete_time.GetCurrentTime()
        await region.apply("image", image, epoch=0)
        await region.until(lambda: image.uid in region.ended, "it is gone")
        assert not [key for key in await cloud.all_keys("record/staging/") if image.uid in key]


async def test_an_image_that_the_cell_does_not_know_takes_no_bytes(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        with pytest.raises(NotFound):
            await upload(world.region, _image(world))


async def test_a_console_is_attached_and_its_log_is_read(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        region, wanted = world.region, bundle(base=world.base)
        await region.push(wanted)
        await region.until_state(wanted.server.uid, Server.ACTIVE)
        async with region.channel() as dialled:
            streams = cell_pb2_grpc.StreamsStub(dialled)
            console: Any = streams.AttachConsole()
            await console.write(cell_pb2.AttachConsoleRequest(uid=wanted.server.uid, input=b"hello\r"))
            seen = b""
            while b"hello" not in seen:
                seen += (await console.read()).output
            console.cancel()
            read: Any = streams.ReadConsoleLog(cell_pb2.ReadConsoleLogRequest(uid=wanted.server.uid))
            assert b"hello" in b"".join([piece.output async for piece in read])


async def test_a_console_of_a_server_that_is_nowhere_is_refused(cloud: Cloud) -> None:
    async with up(cloud, "h1", memory_mib=512) as world:
        region, wanted = world.region, bundle(memory_mib=4096, base=world.base)
        await region.push(wanted)
        async with region.channel() as dialled:
            streams = cell_pb2_grpc.StreamsStub(dialled)
            for uid, expected in ((wanted.server.uid, FailedPrecondition), (new_uid(), NotFound)):
                read: Any = streams.ReadConsoleLog(cell_pb2.ReadConsoleLogRequest(uid=uid))
                with pytest.raises(expected):
                    await read.read()
