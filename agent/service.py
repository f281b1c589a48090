"""Answers kumo.api.agent.v1.Agents: what the host is, its facts as they change, and which ends were recorded."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from agent.facts import FactBook
from agent.stamps import Commands, Terms
from kumo.api.agent.v1.agent_pb2 import (
    AcknowledgeEndsRequest,
    AcknowledgeEndsResponse,
    DescribeHostRequest,
    DescribeHostResponse,
    Facts,
    WatchFactsRequest,
)
from kumo.api.agent.v1.agent_pb2_grpc import AgentsServicer
from kumo.rpc.identity import Context


class Agents(AgentsServicer):
    """What the cell's leader asks of the host as a whole."""

    def __init__(self, book: FactBook, terms: Terms, commands: Sequence[Commands[Any]], refresh_host: Callable[[], None]) -> None:
        """`refresh_host` sets the facts of the host anew."""
        self._book, self._terms, self._commands, self._refresh_host = book, terms, commands, refresh_host

    async def DescribeHost(self, request: DescribeHostRequest, context: Context) -> DescribeHostResponse:
        self._refresh_host()
        return DescribeHostResponse(host=self._book.host())

    async def WatchFacts(self, request: WatchFactsRequest, context: Context) -> AsyncIterator[Facts]:
        await self._terms.obey(request.term)
        self._refresh_host()
        async with aclosing(self._book.watch()) as messages:
            async for facts in messages:
                # A leader that was deposed while it watched is told so, in a second at the latest.
                self._terms.check(request.term)
                yield facts

    async def AcknowledgeEnds(self, request: AcknowledgeEndsRequest, context: Context) -> AcknowledgeEndsResponse:
        await self._terms.obey(request.term)
        for commands in self._commands:
            await commands.acknowledge(request.uids)
        return AcknowledgeEndsResponse()
