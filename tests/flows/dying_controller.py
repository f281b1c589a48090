"""Runs the controller and ends it by SIGKILL just before or just after the commit or call that a file names. Copied into the lab.

usage: dying_controller.py FOLDER CONTROLLER-ARGUMENTS ...
  FOLDER/plan   JSON {"index": n, "when": "before" | "after"}: die at the n-th step since the file came; taken away when it strikes
  FOLDER/steps  a line for each step since the plan came: what a clean run does can be read there
"""

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kumo.rpc import client as rpc
from kumo.store import client as store

FOLDER = Path(sys.argv[1])
PLAN, STEPS = FOLDER / "plan", FOLDER / "steps"
# Reads and what is done all the time tell nothing about the work under way.
_QUIET = ("Describe", "Get", "List", "Watch")
_count = 0
_of_plan = b""


def _strike(label: str, when: str, index: int) -> None:
    """End the process if this is the step that the plan names."""
    plan = json.loads(_of_plan)
    if index == plan["index"] and when == plan["when"]:
        PLAN.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)


async def _step(label: str, act: Callable[[], Awaitable[Any]]) -> Any:
    global _count, _of_plan
    try:
        plan = PLAN.read_bytes()
    except FileNotFoundError:
        plan = b""
    if plan != _of_plan:
        _count, _of_plan = 0, plan
    if not plan:
        return await act()
    index, _count = _count, _count + 1
    with STEPS.open("a") as steps:
        steps.write(f"{label}\n")
    _strike(label, "before", index)
    answer = await act()
    _strike(label, "after", index)
    return answer


_commit = store.Etcd.txn
_call = rpc._Answered.__call__


async def _dying_commit(self: store.Etcd, *arguments: Any, **named: Any) -> Any:
    return await _step("commit", lambda: _commit(self, *arguments, **named))


async def _dying_call(self: Any, *arguments: Any, **named: Any) -> Any:
    if self._method.rsplit("/", 1)[-1].startswith(_QUIET):
        return await _call(self, *arguments, **named)
    return await _step(self._method, lambda: _call(self, *arguments, **named))


if __name__ == "__main__":
    store.Etcd.txn = _dying_commit  # type: ignore[method-assign]  # the point of this file
    rpc._Answered.__call__ = _dying_call  # type: ignore[method-assign]
    del sys.argv[1]
    from controller.main import main

    main()
