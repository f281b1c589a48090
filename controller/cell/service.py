"""Answers kumo.api.cell.v1.Intents: the region's leader says what shall be, and hears what is."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from controller.cell.ends import acknowledge
from controller.cell.leadership import Leadership
from kumo.api.cell.v1.cell_pb2 import (
    AcknowledgeEndsRequest,
    AcknowledgeEndsResponse,
    ApplyIntentRequest,
    ApplyIntentResponse,
    DisownRequest,
    DisownResponse,
    Facts,
    Held,
    ListHeldRequest,
    WatchFactsRequest,
)
from kumo.api.cell.v1.cell_pb2_grpc import IntentsServicer
from kumo.rpc.identity import Context

_MOST_STRANGERS = 200


class Intents(IntentsServicer):
    """Every method raises FailedPrecondition NOT_LEADER on a controller that does not lead the cell."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    async def ApplyIntent(self, request: ApplyIntentRequest, context: Context) -> ApplyIntentResponse:
        return ApplyIntentResponse(held=await self._leadership.term().orders.apply(request))

    async def ListHeld(self, request: ListHeldRequest, context: Context) -> AsyncIterator[Held]:
        term = self._leadership.term()
        largest = term.orders.largest_term
        for order in list(term.cell.records.orders.all()):
            yield Held(kind=order.kind, uid=order.uid, stamp=order.stamp, largest_term=largest)

    async def WatchFacts(self, request: WatchFactsRequest, context: Context) -> AsyncIterator[Facts]:
        term = self._leadership.term()
        await term.orders.obey(request.term)
        async with aclosing(term.feed.stream(request.resume_token)) as messages:
            async for facts in messages:
                # A leader that was deposed, here or in the region, stops at the next heartbeat.
                now = self._leadership.term()
                now.orders.check_term(request.term)
                if not facts.facts and not facts.complete:
                    facts.strangers.extend(now.cell.strangers.uids()[:_MOST_STRANGERS])
                yield facts

    async def AcknowledgeEnds(self, request: AcknowledgeEndsRequest, context: Context) -> AcknowledgeEndsResponse:
        term = self._leadership.term()
        await term.orders.obey(request.term)
        await acknowledge(term.cell, request.uids)
        return AcknowledgeEndsResponse()

    async def Disown(self, request: DisownRequest, context: Context) -> DisownResponse:
        term = self._leadership.term()
        await term.orders.obey(request.term)
        await term.cell.strangers.remove(request.uids)
        return DisownResponse()
