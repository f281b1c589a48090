"""Says what every task of the running loop waits for: for a test that waited in vain."""

import asyncio
import gc
import inspect
from collections.abc import Iterator
from types import FrameType


def waiting() -> str:
    """Return the tasks, each with the places in its coroutines that wait for one another, the innermost last."""
    return "\n".join(f"{task.get_name()}: {' > '.join(_places(task.get_coro()))}" for task in asyncio.all_tasks())


def _places(awaited: object) -> Iterator[str]:
    while awaited is not None:
        frame: FrameType | None = None
        inner: object = None
        for kind in ("cr", "ag", "gi"):
            if hasattr(awaited, f"{kind}_frame"):
                frame, inner = getattr(awaited, f"{kind}_frame"), getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
        if frame is not None:
            yield f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        else:
            # What anext() returns does not say which generator it runs, but it holds it.
            inner = next((one for one in gc.get_referents(awaited) if inspect.isasyncgen(one)), None)
        awaited = inner
