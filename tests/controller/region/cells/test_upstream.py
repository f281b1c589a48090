"""A client's stream on its way to a cell: begun anew it says the same again, and no try costs the client a message."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from controller.region.cells.upstream import Upstream
from kumo.api.compute.v1.server_pb2 import AttachConsoleRequest
from kumo.errors import InvalidArgument

NAMED = AttachConsoleRequest(name="projects/p/servers/s")


def typed(text: str) -> AttachConsoleRequest:
    return AttachConsoleRequest(input=text.encode())


async def of(*requests: AttachConsoleRequest, then: asyncio.Event | None = None) -> AsyncIterator[AttachConsoleRequest]:
    for request in requests:
        yield request
    if then is not None:
        await then.wait()
        yield typed("late")


async def read(sent: AsyncIterator[bytes], count: int) -> list[bytes]:
    return [await anext(sent) for _ in range(count)]


async def test_a_stream_that_is_begun_anew_says_all_again_and_goes_on_where_the_client_is() -> None:
    more = asyncio.Event()
    async with Upstream(of(NAMED, typed("a"), typed("b"), then=more)) as upstream:
        await upstream.first()
        first_try = upstream.mapped(b"first", lambda request: request.input)
        assert await read(first_try, 3) == [b"first", b"a", b"b"]
        waiting = asyncio.ensure_future(anext(first_try))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        more.set()
        assert upstream.may_begin_anew
        assert [sent async for sent in upstream.mapped(b"first", lambda request: request.input)] == [b"first", b"a", b"b", b"late"]


async def test_what_is_too_much_to_keep_or_was_answered_is_not_begun_anew() -> None:
    async with Upstream(of(NAMED, *(typed(str(number)) for number in range(9)))) as long, Upstream(of(NAMED)) as answered:
        await long.first()
        assert len([sent async for sent in long.mapped(b"first", lambda request: request.input)]) == 10
        assert not long.may_begin_anew
        await answered.first()
        assert answered.may_begin_anew
        answered.forget()
        assert not answered.may_begin_anew


@pytest.mark.parametrize("requests", [(), (AttachConsoleRequest(),)])
async def test_a_stream_that_names_nothing_is_refused(requests: tuple[AttachConsoleRequest, ...]) -> None:
    async with Upstream(of(*requests)) as upstream:
        with pytest.raises(InvalidArgument):
            await upstream.first()
