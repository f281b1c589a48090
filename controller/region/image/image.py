"""Images: made first, then their bytes are uploaded, through here to the cell that keeps them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from controller.region.cells.forward import Forward, caller
from controller.region.cells.upstream import Upstream
from controller.region.create import Creatable, Outcome
from controller.region.present import live_cells
from controller.region.resolve import pool_or_default, require_verb
from controller.region.standard import Region
from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.image.v1 import image_pb2
from kumo.api.image.v1.image_pb2 import Image
from kumo.errors import Error, FailedPrecondition, Unavailable
from kumo.pool_verbs import Verb
from kumo.rpc.identity import Context
from kumo.store.txn import Txn

_READY_S = 5.0


class Images(Creatable[Image]):
    def __init__(self, region: Region, forward: Forward) -> None:
        super().__init__(region, region.tables.images, image_pb2.DESCRIPTOR.services_by_name["Images"])
        self._forward = forward

    async def CreateImage(self, request: Any, _context: Context) -> Image:
        async def fill(txn: Txn) -> Outcome[Image]:
            image, project_uid = await self.draft(request)
            pool = await pool_or_default(self.region.plane, self.region.tables.pools, image.spec.pool, "image.spec.pool")
            require_verb(pool, Verb.IMPORT, "image.spec.pool")
            image.spec.pool, image.spec.pool_uid = pool.name, pool.uid
            return Outcome(self.created(txn, image), project_uid, usage_of(image))

        return await self.once(request, fill)

    async def UploadImage(self, requests: AsyncIterator[Any], _context: Context) -> AsyncIterator[Any]:
        received_bytes = 0
        async with Upstream(requests) as upstream:
            asked = await upstream.first()
            image = await self._ready(await self.read(asked.name))
            first = cell_pb2.UploadImageRequest(caller=caller(), uid=image.uid, offset=asked.offset, data=asked.data)

            def upload(channel: Any) -> Any:
                sent = upstream.mapped(first, lambda request: cell_pb2.UploadImageRequest(offset=request.offset, data=request.data))
                return cell_pb2_grpc.StreamsStub(channel).UploadImage(sent)

            try:
                async for answer in self._forward.stream(live_cells(image)[0], upload, lambda: upstream.may_begin_anew):
                    upstream.forget()
                    received_bytes = answer.received_bytes
                    yield image_pb2.UploadImageResponse(received_bytes=received_bytes)
            except Error:
                if upstream.error is not None:
                    raise upstream.error from None
                raise
        if received_bytes == image.spec.size_bytes:
            yield image_pb2.UploadImageResponse(received_bytes=received_bytes, image=self.shown(await self.read(image.name)))

    async def _ready(self, image: Image) -> Image:
        """Return the image once a cell has it: one that was made a moment ago is on its way there."""
        self.require_alive(image)
        try:
            async with asyncio.timeout(_READY_S):
                while not live_cells(image) or image.status.state == Image.STATE_UNSPECIFIED:
                    await self.table.mirror.moved()
                    image = await self.read(image.name)
        except TimeoutError:
            raise Unavailable(
                "IMAGE_NOT_TAKEN_YET",
                f"no cell has taken {image.name} yet",
                fix="try again; if it lasts, look at the cells",
                name=image.name,
            ) from None
        if image.status.state in (Image.ACTIVE, Image.IMPORTING, Image.FAILED):
            state = Image.State.Name(image.status.state)
            fix = "create another image" if image.status.state == Image.FAILED else "nothing more is needed"
            raise FailedPrecondition(
                "IMAGE_COMPLETE", f"{image.name} is {state} and takes no more bytes", fix=fix, name=image.name, state=state
            )
        return image


def usage_of(_image: Image) -> dict[str, int]:
    return {"images": 1}
