"""Answers kumo.api.agent.v1.Compute; the work is agent/compute/reconciler.py's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

from agent.compute.console import ConsoleInputs, ConsoleLogs
from agent.compute.reconciler import ServerReconciler
from agent.stamps import Commands
from kumo.api.agent.v1.compute_pb2 import (
    ApplyServerRequest,
    ApplyServerResponse,
    AttachConsoleRequest,
    AttachConsoleResponse,
    ReadConsoleLogRequest,
    ReadConsoleLogResponse,
)
from kumo.api.agent.v1.compute_pb2_grpc import ComputeServicer
from kumo.errors import Error, InvalidArgument, NotFound
from kumo.ids import is_uid
from kumo.rpc.call import current_call
from kumo.rpc.identity import Context

# What a new viewer is shown of what was printed before.
REPLAY_BYTES = 16 * 1024


class Compute(ComputeServicer):
    """The servers of this host, for the cell's leader."""

    def __init__(
        self,
        reconciler: ServerReconciler,
        commands: Commands[ApplyServerRequest],
        logs: ConsoleLogs,
        inputs: ConsoleInputs,
    ) -> None:
        self._reconciler, self._commands, self._logs, self._inputs = reconciler, commands, logs, inputs

    async def ApplyServer(self, request: ApplyServerRequest, context: Context) -> ApplyServerResponse:
        return ApplyServerResponse(facts=await self._reconciler.apply(request, current_call().remaining_s()))

    async def AttachConsole(
        self, request_iterator: AsyncIterator[AttachConsoleRequest], context: Context
    ) -> AsyncIterator[AttachConsoleResponse]:
        first = await anext(request_iterator, None)
        if first is None or not is_uid(first.uid):
            raise InvalidArgument("CONSOLE_UNNAMED", "the first message names the server", field="uid")
        uid = first.uid
        self._check_here(uid)
        async with self._inputs.attached(uid):
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            outputs = self._logs.read(uid, REPLAY_BYTES, follow=True, until=failed)
            async with asyncio.TaskGroup() as tasks, aclosing(outputs):
                typing = tasks.create_task(self._type(uid, first.input, request_iterator, failed))
                async for output in outputs:
                    yield AttachConsoleResponse(output=output)
                typing.cancel()
            failed.result()

    async def ReadConsoleLog(self, request: ReadConsoleLogRequest, context: Context) -> AsyncIterator[ReadConsoleLogResponse]:
        async with aclosing(self._logs.read(request.uid, request.tail_bytes, follow=request.follow)) as outputs:
            async for output in outputs:
                yield ReadConsoleLogResponse(output=output)

    async def _type(self, uid: str, first: bytes, requests: AsyncIterator[AttachConsoleRequest], failed: asyncio.Future[None]) -> None:
        """Pass on what is typed; a viewer that will type no more may go on reading.

        What is typed to a server that does not run goes nowhere, as on a real console. What is wrong with a request ends `failed`.
        """
        try:
            with suppress(Error):
                await self._inputs.send(uid, first)
            async for request in requests:
                with suppress(Error):
                    await self._inputs.send(uid, request.input)
        except Exception as error:  # noqa: BLE001  # it is raised where the stream is served
            if not failed.done():
                failed.set_exception(error)

    def _check_here(self, uid: str) -> None:
        if uid not in self._commands.held or self._commands.is_tombstone(uid):
            raise NotFound("SERVER_NOT_HERE", f"server {uid} is not on this host", fix="ask the host that it is on", uid=uid)
