"""A reconciler works under the id of the request that asked for the thing, and forgets it where nobody asked."""

import asyncio
from contextlib import suppress

from kumo import origin
from kumo.ids import new_uid
from kumo.log import bound_fields
from kumo.loop import Loop
from kumo.origin import ORIGIN, origin_of, remember


async def test_what_a_loop_logs_and_calls_carries_the_request_that_asked_for_the_key() -> None:
    asked, unasked, request = new_uid(), new_uid(), new_uid()
    remember(asked, request)
    seen: dict[str, tuple[object, str]] = {}
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        seen[key] = (bound_fields().get("request_id"), ORIGIN.get())
        if len(seen) == 2:
            done.set()

    loop = Loop("origins", reconcile, workers=1)
    loop.add(f"server/{asked}")
    loop.add(unasked)
    running = asyncio.ensure_future(loop.run())
    async with asyncio.timeout(5):
        await done.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert seen == {f"server/{asked}": (request, request), unasked: (None, "")}


def test_the_last_request_counts_and_only_so_many_are_kept() -> None:
    uid = new_uid()
    remember(uid, "first")
    remember(uid, "second")
    assert origin_of(uid) == "second"
    for number in range(origin._MOST):
        remember(f"other-{number}", "third")
    assert origin_of(uid) == ""


def test_what_names_no_request_is_not_noted() -> None:
    uid = new_uid()
    remember(uid, "")
    assert origin_of(uid) == ""
