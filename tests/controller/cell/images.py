"""Uploads an image to a cell as the region does."""

import os
from typing import Any

import grpc

from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.image.v1.image_pb2 import Image
from tests.controller.cell.world import Region

_PIECE = 256 << 10


async def upload(region: Region, image: Image, data: bytes | None = None) -> int:
    """Send all bytes of `image` from where the cell says, and return how many it kept."""
    content = os.urandom(image.spec.size_bytes) if data is None else data
    received = 0
    async with region.channel() as dialled:
        stream: Any = cell_pb2_grpc.StreamsStub(dialled).UploadImage()
        await stream.write(cell_pb2.UploadImageRequest(uid=image.uid))
        received = (await stream.read()).received_bytes
        for start in range(received, len(content), _PIECE):
            await stream.write(cell_pb2.UploadImageRequest(offset=start, data=content[start : start + _PIECE]))
        await stream.done_writing()
        while (answer := await stream.read()) is not grpc.aio.EOF:
            received = answer.received_bytes
    return int(received)
