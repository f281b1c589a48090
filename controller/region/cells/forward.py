"""Passes calls and byte streams of clients on to the leader of a cell, with who asks. It keeps nothing, and buffers one message.

A cell that is known to be silent is not asked: its callers are told so at once. One that is just electing a leader is asked again
for a moment, so that no client hears of elections.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc

from controller.region.cells.link import LEADERLESS, NOT_LEADER, Link, Links
from controller.region.present import Silence
from kumo.api.cell.v1.cell_pb2 import Caller
from kumo.errors import Error, Unavailable
from kumo.rpc.call import Audience, current_principal
from kumo.rpc.client import opened
from kumo.rpc.status import CALL_ENDED

T = TypeVar("T")
_CALL_S = 10.0
# A change is refused within a second where a cell has no leader; a console or an upload is worth waiting for an election.
_CALL_PATIENCE_S, _STREAM_PATIENCE_S = 0.8, 6.0
_AGAIN_S = 0.2
_ELECTING = frozenset({NOT_LEADER, LEADERLESS, "CELL_STARTING", "HOST_NOT_DIALLED", "HOST_UNKNOWN", "NO_STORAGE_AGENT", CALL_ENDED})


class Forward:
    """Used by every controller of the region, leader or not."""

    def __init__(self, links: Links, silent: Callable[[], Mapping[str, Silence]]) -> None:
        self._links, self._silent = links, silent

    def require(self, cell: str) -> None:
        """Raises FailedPrecondition for a cell that there is not, Unavailable for one that is silent."""
        self._link(cell)

    async def call(self, cell: str, make: Callable[[grpc.aio.Channel, float], Awaitable[T]]) -> T:
        """Return what `make` returns on a channel to the cell's leader, within the seconds that it is given."""
        patience = _Patience(_CALL_PATIENCE_S)
        while True:
            try:
                return await self._link(cell).call(lambda channel: make(channel, _CALL_S))
            except Error as error:
                if not await patience.allows(error):
                    raise _for_caller(error, cell) from error

    async def stream(
        self, cell: str, open_stream: Callable[[grpc.aio.Channel], Any], may_reopen: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[Any]:
        """Yield what comes on the stream that `open_stream` opens, again while the cell elects, until anything came.

        `may_reopen` says whether all that was sent can be sent again.
        """
        patience = _Patience(_STREAM_PATIENCE_S)
        while True:
            try:
                async with self._link(cell).stream() as channel, opened(open_stream(channel)) as answers:
                    async for answer in answers:
                        patience.end()
                        yield answer
                return
            except Error as error:
                if not may_reopen() or not await patience.allows(error):
                    raise _for_caller(error, cell) from error

    def _link(self, cell: str) -> Link:
        if cell in self._silent():
            raise Unavailable(
                "CELL_SILENT", f"cell {cell} does not answer", fix="wait, and look at the controllers of that cell", cell=cell
            )
        return self._links.to(cell)


class _Patience:
    """How long one caller waits for a cell to have a leader."""

    def __init__(self, seconds: float) -> None:
        self._until = asyncio.get_running_loop().time() + seconds

    def end(self) -> None:
        self._until = 0.0

    async def allows(self, error: Error) -> bool:
        """Wait a little and return True where `error` will pass by itself and there is time left."""
        if error.reason not in _ELECTING or asyncio.get_running_loop().time() + _AGAIN_S > self._until:
            return False
        await asyncio.sleep(_AGAIN_S)
        return True


def caller() -> Caller:
    principal = current_principal()
    return Caller(principal=principal.name, audience=int(principal.audience))  # type: ignore[arg-type]  # the numbers are the same


def _for_caller(error: Error, cell: str) -> Error:
    """Tell a tenant only that it has to wait: which cell or host does not answer, and at what address, is the operators'.

    Who leads is no client's concern either: it cannot ask anybody but the region.
    """
    if error.reason == NOT_LEADER:
        error = Unavailable(LEADERLESS, f"no controller of cell {cell} leads now", fix="try again in a few seconds", cell=cell)
    if not isinstance(error, Unavailable):
        return error
    if current_principal().audience >= Audience.OPERATOR:
        return error
    message = "the part of this cloud that has it does not answer now"
    return Unavailable("PLACE_UNAVAILABLE", message, fix="try again in a minute; what runs goes on running", cell=cell)
