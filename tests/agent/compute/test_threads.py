"""A call that hangs costs its own key, and nobody else."""

import asyncio
import threading
import time
from functools import partial

import pytest

from agent.compute.threads import KeyedThreads
from kumo.errors import Unavailable


async def test_calls_of_one_key_come_one_after_the_other() -> None:
    threads = KeyedThreads("test")
    order: list[str] = []

    def work(name: str) -> None:
        order.append(f"{name} begins")
        time.sleep(0.01)
        order.append(f"{name} ends")

    await asyncio.gather(*(threads.call("key", 5, partial(work, name)) for name in "abc"))
    assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


async def test_a_call_that_hangs_is_given_up_and_its_key_refused_until_it_returns() -> None:
    threads = KeyedThreads("test")
    let_go = threading.Event()
    with pytest.raises(Unavailable) as gave_up:
        await threads.call("hung", 0.05, let_go.wait)
    assert gave_up.value.reason == "CALL_STUCK"
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await threads.call("hung", 5, lambda: None)
    assert time.monotonic() - started < 1
    assert await threads.call("other", 5, lambda: 7) == 7
    let_go.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await threads.call("hung", 5, lambda: 8) == 8
                return
            except Unavailable:
                await asyncio.sleep(0.01)


async def test_what_a_call_raises_reaches_its_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        await KeyedThreads("test").call("key", 5, lambda: 1 // 0)


async def test_more_hung_calls_than_threads_are_refused() -> None:
    threads = KeyedThreads("test", most=2)
    let_go = threading.Event()
    hung = [asyncio.ensure_future(threads.call(key, 5, let_go.wait)) for key in ("a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await threads.call("c", 5, lambda: None)
    assert refused.value.reason == "CALLS_STUCK"
    let_go.set()
    assert await asyncio.gather(*hung) == [True, True]
