"""Serial consoles: passes bytes on between a client and the cell that has the server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from controller.region.cells.forward import Forward, caller
from controller.region.cells.upstream import Upstream
from controller.region.present import live_cells
from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.errors import Error, FailedPrecondition


class Consoles:
    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    async def attach(self, requests: AsyncIterator[Any], read: Callable[[str], Awaitable[Server]]) -> AsyncIterator[Any]:
        """`read` returns the server of a name that the caller may reach."""
        async with Upstream(requests) as upstream:
            asked = await upstream.first()
            server = await read(asked.name)
            first = cell_pb2.AttachConsoleRequest(caller=caller(), uid=server.uid, input=asked.input)

            def attach(channel: Any) -> Any:
                sent = upstream.mapped(first, lambda request: cell_pb2.AttachConsoleRequest(input=request.input))
                return cell_pb2_grpc.StreamsStub(channel).AttachConsole(sent)

            try:
                async for answer in self._forward.stream(_cell_of(server), attach, lambda: upstream.may_begin_anew):
                    upstream.forget()
                    yield server_pb2.AttachConsoleResponse(output=answer.output)
            except Error:
                if upstream.error is not None:
                    raise upstream.error from None
                raise

    async def read_log(self, request: Any, server: Server) -> AsyncIterator[Any]:
        asked = cell_pb2.ReadConsoleLogRequest(caller=caller(), uid=server.uid, tail_bytes=request.tail_bytes, follow=request.follow)
        async for answer in self._forward.stream(
            _cell_of(server), lambda channel: cell_pb2_grpc.StreamsStub(channel).ReadConsoleLog(asked)
        ):
            yield server_pb2.ReadConsoleLogResponse(output=answer.output)


def _cell_of(server: Server) -> str:
    cells = live_cells(server)
    if not cells:
        raise FailedPrecondition("SERVER_NOT_PLACED", f"{server.name} is not placed yet", fix="wait until it runs", name=server.name)
    return cells[-1]
