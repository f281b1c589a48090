"""Images through the API: bytes go on to the cell, from where an earlier try ended, and a bad message is refused as itself."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.image.v1 import image_pb2
from kumo.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.controller.region.region_process import PROJECT, Rig, eventually

NAME = f"{PROJECT}/images/raw"


async def create(rig: Rig, size_bytes: int) -> Any:
    image = image_pb2.Image(spec=image_pb2.Image.Spec(format=image_pb2.Image.RAW, size_bytes=size_bytes))
    return await rig.api.images.CreateImage(image_pb2.CreateImageRequest(parent=PROJECT, image_id="raw", image=image))


async def upload(rig: Rig, *messages: image_pb2.UploadImageRequest) -> list[Any]:
    async def sent() -> AsyncIterator[image_pb2.UploadImageRequest]:
        for message in messages:
            yield message

    return [answer async for answer in rig.api.images.UploadImage(sent())]


def piece(offset: int, data: bytes, name: str = "") -> image_pb2.UploadImageRequest:
    return image_pb2.UploadImageRequest(name=name, offset=offset, data=data)


async def test_an_upload_that_broke_off_goes_on_where_it_was(rig: Rig) -> None:
    made = await create(rig, 10)
    assert made.status.state == image_pb2.Image.PENDING
    first = await upload(rig, piece(0, b"", NAME), piece(0, b"12345"))
    assert [answer.received_bytes for answer in first] == [0, 5]
    assert not first[-1].HasField("image")
    second = await upload(rig, piece(0, b"", NAME), piece(5, b"67890"))
    assert second[0].received_bytes == 5
    assert second[-1].image.name == NAME
    await eventually(rig.image_is_active(NAME))
    with pytest.raises(FailedPrecondition) as complete:
        await upload(rig, piece(0, b"", NAME))
    assert complete.value.reason == "IMAGE_COMPLETE"
    held = next(thing for thing in rig.cell.things.values() if thing.record.name == NAME)
    assert held.received == b"1234567890"


async def test_a_stream_that_is_wrong_is_refused_as_what_it_is(rig: Rig) -> None:
    with pytest.raises(InvalidArgument) as unnamed:
        await upload(rig, piece(0, b"x"))
    assert unnamed.value.reason == "NAME_MISSING"
    with pytest.raises(InvalidArgument):
        await upload(rig)
    with pytest.raises(NotFound):
        await upload(rig, piece(0, b"", f"{PROJECT}/images/none"))
    await create(rig, 4 << 20)
    with pytest.raises(InvalidArgument) as large:
        await upload(rig, piece(0, b"", NAME), piece(0, b"x" * ((1 << 20) + 1)))
    assert large.value.field == "data"


async def test_consoles_pass_bytes_both_ways(rig: Rig) -> None:
    await rig.api.create_server("web")
    await eventually(rig.state_is("web", Server.ACTIVE))

    async def typed() -> AsyncIterator[server_pb2.AttachConsoleRequest]:
        yield server_pb2.AttachConsoleRequest(name=f"{PROJECT}/servers/web", input=b"a")
        yield server_pb2.AttachConsoleRequest(input=b"bc")

    assert [answer.output async for answer in rig.api.servers.AttachConsole(typed())] == [b"A", b"BC"]
    request = server_pb2.ReadConsoleLogRequest(name=f"{PROJECT}/servers/web")
    assert [len(answer.output) async for answer in rig.api.servers.ReadConsoleLog(request)] == [1000] * 3
