"""Work that has no end, and cancellations that nobody meant: a task that just stops being there would never be missed."""

import asyncio
from collections.abc import Awaitable
from typing import NoReturn

from kumo.errors import Unavailable


def is_being_cancelled() -> bool:
    """Return whether somebody cancelled the current task. grpc.aio raises CancelledError also when a connection ends under a call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def lasting(what: str, work: Awaitable[object]) -> NoReturn:
    """Do `work` until cancelled. Raises Unavailable WORK_ENDED should it end by itself, which a TaskGroup alone would not notice."""
    try:
        await work
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        raise _ended(f"{what} was cancelled by nobody") from error
    raise _ended(f"{what} came to an end")


def _ended(message: str) -> Unavailable:
    return Unavailable("WORK_ENDED", message, fix="the process ends and is started again by itself; report it if that goes on")
