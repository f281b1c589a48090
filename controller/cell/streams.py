"""Answers kumo.api.cell.v1.Streams: hands bytes on between the region and the agent of a host, a piece at a time.

gRPC's own flow control bounds what is in flight: a piece is read from one side only when the other took the one before.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from controller.cell.cell import Cell
from controller.cell.leadership import Leadership, Term
from controller.cell.presence import host_of
from controller.cell.session import Session
from kumo.api.agent.v1 import compute_pb2, storage_pb2
from kumo.api.cell.v1.cell_pb2 import (
    AttachConsoleRequest,
    AttachConsoleResponse,
    ReadConsoleLogRequest,
    ReadConsoleLogResponse,
    UploadImageRequest,
    UploadImageResponse,
)
from kumo.api.cell.v1.cell_pb2_grpc import StreamsServicer
from kumo.api.cell.v1.record_pb2 import Staging
from kumo.api.image.v1.image_pb2 import Image
from kumo.errors import Error, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from kumo.rpc.client import Stream
from kumo.rpc.identity import Context

Asked = TypeVar("Asked")
Told = TypeVar("Told")

_TOUCH_S = 1.0


class Streams(StreamsServicer):
    """Every method raises FailedPrecondition NOT_LEADER on a controller that does not lead the cell."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    async def UploadImage(
        self, request_iterator: AsyncIterator[UploadImageRequest], context: Context
    ) -> AsyncIterator[UploadImageResponse]:
        term = self._leadership.term()
        first = await anext(request_iterator, None)
        image = term.cell.records.images.get(first.uid) if first is not None else None
        if first is None or image is None:
            raise NotFound("NOT_FOUND", "this cell was not told of that image", fix="try again in a second")
        _check_open(image)
        session = await _stager(term.cell, image)
        head = storage_pb2.UploadHead(stamp=session.stamp(None, image.generation), uid=image.uid, size_bytes=image.spec.size_bytes)

        def handed_on(request: UploadImageRequest) -> storage_pb2.UploadImageRequest:
            return storage_pb2.UploadImageRequest(offset=request.offset, data=request.data)

        opening = storage_pb2.UploadImageRequest(head=head, offset=first.offset, data=first.data)
        stream: Any = session.storage.UploadImage()  # Any: kumo.rpc's channel returns its own stream
        touched_at = term.cell.clock.monotonic()
        term.loops.images.add(image.uid)
        try:
            async for answer in _both_ways(stream, opening, request_iterator, handed_on):
                yield UploadImageResponse(received_bytes=answer.received_bytes)
                if term.cell.clock.monotonic() - touched_at >= _TOUCH_S:
                    touched_at = term.cell.clock.monotonic()
                    term.loops.images.add(image.uid)
        finally:
            term.loops.images.add(image.uid)

    async def AttachConsole(
        self, request_iterator: AsyncIterator[AttachConsoleRequest], context: Context
    ) -> AsyncIterator[AttachConsoleResponse]:
        term = self._leadership.term()
        first = await anext(request_iterator, None)
        if first is None:
            raise InvalidArgument("CONSOLE_UNNAMED", "the first message names the server", field="uid")

        def handed_on(request: AttachConsoleRequest) -> compute_pb2.AttachConsoleRequest:
            return compute_pb2.AttachConsoleRequest(input=request.input)

        opening = compute_pb2.AttachConsoleRequest(uid=first.uid, input=first.input)
        stream: Any = _session_of(term, first.uid).compute.AttachConsole()  # Any: as above
        async for answer in _both_ways(stream, opening, request_iterator, handed_on):
            yield AttachConsoleResponse(output=answer.output)

    async def ReadConsoleLog(self, request: ReadConsoleLogRequest, context: Context) -> AsyncIterator[ReadConsoleLogResponse]:
        session = _session_of(self._leadership.term(), request.uid)
        asked = compute_pb2.ReadConsoleLogRequest(uid=request.uid, tail_bytes=request.tail_bytes, follow=request.follow)
        stream: Any = session.compute.ReadConsoleLog(asked)  # Any: as above
        try:
            async for answer in stream:
                yield ReadConsoleLogResponse(output=answer.output)
        finally:
            stream.cancel()


def _check_open(image: Image) -> None:
    if image.HasField("delete_time"):
        raise FailedPrecondition("IMAGE_DELETED", f"{image.name} is being deleted", fix="create another one", name=image.name)
    if image.status.state in (Image.ACTIVE, Image.FAILED, Image.IMPORTING):
        state = Image.State.Name(image.status.state)
        message = f"{image.name} is {state}: its bytes never change"
        raise FailedPrecondition("IMAGE_NOT_OPEN", message, fix="create another image", name=image.name, state=state)


async def _stager(cell: Cell, image: Image) -> Session:
    """Return the host that takes the bytes: the one that took some already, or one that is chosen now and kept."""
    kept = cell.records.stagings.get(image.uid)
    if kept is not None and cell.records.hosts.entry(kept.host_uid) is not None:
        return cell.agents.session(kept.host_uid)
    pool = cell.records.pools.get(image.spec.pool_uid)
    if pool is None:
        raise Unavailable("POOL_UNKNOWN", f"the pool of {image.name} is not known in this cell yet", fix="try again in a second")
    session = cell.agents.for_storage(image.uid, pool)
    change = cell.ledger.change()
    staging = Staging(name=image.name, uid=image.uid, host_uid=session.host_uid)
    change.put(staging, replaces=cell.records.stagings.intent_revision(image.uid))
    change.guard(Image, image.uid, "intent", cell.records.images.intent_revision(image.uid))
    await cell.ledger.commit(change)
    return session


def _session_of(term: Term, server_uid: str) -> Session:
    server = term.cell.records.servers.get(server_uid)
    if server is None:
        raise NotFound("NOT_FOUND", "this cell has no such server", uid=server_uid)
    placement = host_of(term.cell, server_uid)
    if placement is None:
        raise FailedPrecondition("NOT_PLACED", f"{server.name} is on no host yet", fix="wait until it is placed", name=server.name)
    return term.cell.agents.session(placement.host_uid)


async def _both_ways(
    stream: Stream, opening: Told, requests: AsyncIterator[Asked], handed_on: Callable[[Asked], Told]
) -> AsyncIterator[Any]:
    """Send `opening` and then each request, translated; yield what comes back. What ends either side ends both."""
    # A TaskGroup cannot span the yields of a generator: this task is ended in `finally`.
    sending = asyncio.ensure_future(_send(stream, opening, requests, handed_on))
    try:
        while (answer := await stream.read()) is not grpc.aio.EOF:
            yield answer
    finally:
        sending.cancel()
        stream.cancel()
        await asyncio.wait([sending])


async def _send(stream: Stream, opening: Told, requests: AsyncIterator[Asked], handed_on: Callable[[Asked], Told]) -> None:
    try:
        await stream.write(opening)
        async for request in requests:
            await stream.write(handed_on(request))
        await stream.done_writing()
    except Error:
        return  # the other half of the stream says why
