"""Runs blocking calls on threads, one call a key at a time; a call that hangs costs its own key and one thread, nothing else.

Threads are daemons: one that never returns must not keep the process from ending.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from kumo.errors import Unavailable

T = TypeVar("T")

# A job's future holds what its work returns, whose type only call() knows.
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class KeyedThreads:
    """As many threads as there are calls at once, up to a limit; idle ones are used again."""

    def __init__(self, name: str, most: int = 32) -> None:
        self._name = name
        self._most = most
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._threads = 0
        self._busy: dict[str, asyncio.Future[Any]] = {}
        # Calls whose callers gave up, and that have not returned.
        self._abandoned: set[asyncio.Future[Any]] = set()

    async def call(self, key: str, timeout_s: float, work: Callable[[], T]) -> T:
        """Return what `work` returns, called after earlier calls of `key` have returned.

        Raises Unavailable after `timeout_s`, and at once while a call of `key` hangs that somebody gave up on.
        """
        future: asyncio.Future[Any] | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while (earlier := self._busy.get(key)) is not None:
                    if earlier in self._abandoned:
                        raise _stuck(key, "an earlier call has not returned yet")
                    await asyncio.wait([earlier])
                future = self._submit(key, work)
                # Shielded: the thread cannot be cancelled, and its key is busy until it has returned.
                result: T = await asyncio.shield(future)
                return result
        except TimeoutError as error:
            if future is not None:
                self._abandoned.add(future)
            raise _stuck(key, f"it did not return within {timeout_s:g} s") from error

    def _submit(self, key: str, work: Callable[[], T]) -> asyncio.Future[Any]:
        if len(self._busy) >= self._most:
            raise Unavailable("CALLS_STUCK", f"{self._most} calls have not returned", fix="look at libvirtd and the guests' processes")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._busy[key] = future
        future.add_done_callback(lambda done: self._returned(key, done))
        self._jobs.put((loop, future, work))
        if self._threads < len(self._busy):
            self._threads += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        return future

    def _returned(self, key: str, future: asyncio.Future[Any]) -> None:
        self._busy.pop(key, None)
        self._abandoned.discard(future)
        if not future.cancelled():
            future.exception()  # looked at, or asyncio complains where nobody waits for it any more

    def _work(self) -> None:
        while True:
            loop, future, work = self._jobs.get()
            try:
                result, error = work(), None
            except Exception as raised:  # noqa: BLE001  # it is the caller's to handle
                result, error = None, raised
            try:
                loop.call_soon_threadsafe(_finish, future, result, error)
            except RuntimeError:
                return  # the loop is closed: the process is ending
            del future, work, result, error


def _finish(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _stuck(key: str, why: str) -> Unavailable:
    return Unavailable("CALL_STUCK", f"a call about {key}: {why}", fix="look at its process", key=key)
