"""Prints what is being done, one line a step, with how long it took. Steps may run side by side; each line comes whole."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


class Steps:
    """A list of steps on standard output; silent ones are part of somebody else's step."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._began = time.monotonic()
        self._lock = threading.Lock()

    @property
    def total_s(self) -> float:
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        if self._silent:
            return
        with self._lock:
            print(text, flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Time the block. A failure is marked here and rises."""
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self.say(f"  ✗ {what:<50} {time.monotonic() - began:6.1f} s")
            raise
        self.say(f"  ✓ {what:<50} {time.monotonic() - began:6.1f} s")

    def side_by_side(self, *jobs: tuple[str, Callable[[], None]]) -> None:
        """Run the jobs at the same time. The first failure, in the order given, is raised after all have ended."""

        def timed(what: str, job: Callable[[], None]) -> None:
            with self.step(what):
                job()

        with ThreadPoolExecutor(len(jobs)) as pool:
            futures = [pool.submit(timed, what, job) for what, job in jobs]
        for future in futures:
            future.result()


def fail(what: str, because: str, fix: str) -> None:
    """Say a failure in the three parts every message of Kumo has."""
    print(f"error: {what}\nbecause: {because}\nfix: {fix}", file=sys.stderr, flush=True)
