"""A client's stream of requests on its way to a cell, which can be begun anew while the cell elects a leader.

What was read is kept until the cell answered for the first time, or until it is too much to keep.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Self

from kumo.errors import Error, InvalidArgument

_MOST_KEPT = 8


class Upstream:
    """An async context manager, which lets go of the client's stream at its end. Its first message says what it is about."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests
        self._kept: list[Any] = []
        # One read at a time, which outlives a try: cancelling it would end the client's stream.
        self._reading: asyncio.Future[Any] | None = None
        self._is_kept = True
        # What was wrong with a message of the client: the stream to the cell only tells that it was given up.
        self.error: Error | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            with suppress(asyncio.CancelledError, Error):
                await reading

    @property
    def may_begin_anew(self) -> bool:
        return self._is_kept and self.error is None

    async def first(self) -> Any:
        """Return the first message. Raises InvalidArgument if there is none, or if it does not name anything."""
        request = await self._next()
        if request is None:
            raise InvalidArgument(
                "STREAM_EMPTY", "the stream ended before its first message", field="name", fix="send a message that has the name"
            )
        if not request.name:
            raise InvalidArgument("NAME_MISSING", "the first message of the stream names nothing", field="name", fix="set the name in it")
        return request

    async def mapped(self, first: Any, make: Callable[[Any], Any]) -> AsyncIterator[Any]:
        """Yield `first`, then `make` of each message that follows; called again, the same from the beginning."""
        yield first
        for request in list(self._kept):
            yield make(request)
        try:
            while (request := await self._next()) is not None:
                self._keep(request)
                yield make(request)
        except Error as error:
            self.error = error
            raise

    def _keep(self, request: Any) -> None:
        if not self._is_kept:
            return
        if len(self._kept) == _MOST_KEPT:
            self.forget()
        else:
            self._kept.append(request)

    def forget(self) -> None:
        """Keep nothing any more: the cell has begun to answer."""
        self._is_kept = False
        self._kept.clear()

    async def _next(self) -> Any:
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(self._requests, None))
        await asyncio.wait([self._reading])
        reading, self._reading = self._reading, None
        return reading.result()
