"""An event loop whose time is virtual and whose order is decided by a seed: what several processes do, in one, the same each time.

Each callback belongs to a node, by a context variable that tasks hand on. Within a node callbacks run in the order in which they were
scheduled, as in a process; between nodes chance decides. A node that is paused runs nothing until it goes on, one that has crashed
runs nothing ever again, not even what it would do at its end.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Self

_Task: Any = asyncio.Task
_Future: Any = asyncio.Future


class _Counted:
    """Sets of these come in the order of their making, whatever their addresses are."""

    _number: int

    def __hash__(self) -> int:
        return self._number


class CountedTask(_Counted, _Task):  # type: ignore[misc]  # the library's types are generic
    pass


class CountedFuture(_Counted, _Future):  # type: ignore[misc]
    pass


# More callbacks than any run needs at one moment: a loop that waits for nothing.
_MOST_AT_ONCE = 200_000


class Node:
    """One life of one process."""

    def __init__(self, name: str, machine: str = "") -> None:
        """Processes of one `machine` share its network."""
        self.name = name
        self.machine = machine or name
        self.is_alive = True
        self.is_paused = False

    def __repr__(self) -> str:
        return self.name


WORLD = Node("world")
NODE: ContextVar[Node] = ContextVar("simulated_node", default=WORLD)


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs until nothing is left to do at any time."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self._now = 0.0
        self._queues: dict[Node, deque[asyncio.Handle]] = {}
        self._kept: dict[Node, list[asyncio.Handle]] = {}
        self.step_count = 0
        self.failures: list[str] = []
        self._made = 0
        # Held to the end: what a crashed process would have done at its own end must not happen when its tasks are forgotten.
        self._tasks: list[Any] = []
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._failed)

    def _number(self, one: Any) -> Any:
        self._made += 1
        one._number = self._made
        return one

    def _make_task(self, loop: Any, work: Any, **how: Any) -> Any:
        # Numbered before it begins: it is put into a set in its own beginning.
        task = CountedTask.__new__(CountedTask)
        self._number(task)
        _Task.__init__(task, work, loop=loop, **how)
        self._tasks.append(task)
        return task

    def create_future(self) -> Any:
        future = CountedFuture.__new__(CountedFuture)
        self._number(future)
        _Future.__init__(future, loop=self)
        return future

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.failures.append(f"{context.get('message')}: {error!r}")

    # ---- time

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        self._sort()
        while not self._queues:
            timers: list[Any] = self._scheduled  # type: ignore[attr-defined]  # of BaseEventLoop
            while timers and timers[0]._cancelled:
                heapq.heappop(timers)._scheduled = False
            if not timers:
                raise RuntimeError("nothing is left that could ever happen")
            self._now = max(self._now, timers[0].when())
            while timers and timers[0].when() <= self._now:
                timer = heapq.heappop(timers)
                timer._scheduled = False
                self._ready.append(timer)  # type: ignore[attr-defined]
            self._sort()
        for _ in range(_MOST_AT_ONCE):
            if not self._queues or self._stopping:  # type: ignore[attr-defined]
                return
            nodes = list(self._queues)
            node = nodes[self.rng.randrange(len(nodes))] if len(nodes) > 1 else nodes[0]
            queue = self._queues[node]
            handle = queue.popleft()
            if not queue:
                del self._queues[node]
            if not handle._cancelled:
                self.step_count += 1
                handle._run()
            self._sort()
        raise RuntimeError(f"{_MOST_AT_ONCE} callbacks at one moment")

    def _sort(self) -> None:
        """Give each callback to its node; what belongs to nobody who could run it waits, or is forgotten."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        while ready:
            handle = ready.popleft()
            node = handle._context.get(NODE, WORLD)  # type: ignore[attr-defined]
            if not node.is_alive:
                continue
            if node.is_paused:
                self._kept.setdefault(node, []).append(handle)
            else:
                self._queues.setdefault(node, deque()).append(handle)

    # ---- what happens to nodes

    def crash(self, node: Node) -> None:
        node.is_alive = False
        self._queues.pop(node, None)
        self._kept.pop(node, None)

    def pause(self, node: Node) -> None:
        node.is_paused = True
        if (queue := self._queues.pop(node, None)) is not None:
            self._kept.setdefault(node, []).extend(queue)

    def resume(self, node: Node) -> None:
        node.is_paused = False
        self._ready.extend(self._kept.pop(node, []))  # type: ignore[attr-defined]

    # ---- what BaseEventLoop leaves to others

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Do it now, and say so a moment later: threads have no order of their own here."""
        future = self.create_future()
        try:
            result, error = func(*args), None
        except BaseException as raised:  # noqa: BLE001  # it is the caller's to handle
            result, error = None, raised

        def finish() -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(self.rng.uniform(0.0, 0.002), finish)
        return future

    def _write_to_self(self) -> None:
        """Nobody sleeps in a system call here."""

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def add_reader(self, *_: Any) -> None:  # type: ignore[override]
        """Files do not change behind the loop's back."""

    def remove_reader(self, *_: Any) -> bool:
        return False

    def add_signal_handler(self, *_: Any) -> None:  # type: ignore[override]
        """Nobody sends any."""

    async def create_server(self, *_: Any, **__: Any) -> Any:
        return _NoServer()

    async def sock_connect(self, *_: Any) -> None:
        raise FileNotFoundError("nothing listens in a simulation")

    async def create_unix_connection(self, *_: Any, **__: Any) -> Any:
        raise FileNotFoundError("nothing listens in a simulation")


class _Address:
    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)


class _NoServer:
    """A listener that nobody ever dials."""

    sockets = (_Address(),)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass
