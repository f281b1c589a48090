"""Work without an end is missed when it ends, and is cancelled only by who means it."""

import asyncio

import pytest

from kumo.errors import Unavailable
from kumo.lasting import lasting


async def ends() -> None:
    return


async def is_cancelled_by_nobody() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("work", [ends, is_cancelled_by_nobody])
async def test_work_that_ends_by_itself_ends_those_that_it_belongs_to(work: object) -> None:
    assert callable(work)
    with pytest.raises(ExceptionGroup) as group:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            tasks.create_task(lasting("the work", work()))
            tasks.create_task(asyncio.Event().wait())
    (error,) = group.value.exceptions
    assert isinstance(error, Unavailable) and error.reason == "WORK_ENDED" and "the work" in error.message


async def test_work_that_is_cancelled_is_just_cancelled() -> None:
    task = asyncio.ensure_future(lasting("the work", asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
