"""Runs a process of Kumo's that ends, or stands still, just before or just after the step that a file names. Copied into a lab.

usage: dying_process.py FOLDER MODULE ARGUMENTS ...
  FOLDER/plan   JSON {"id": ..., "index": n, "when": "before" | "after", "do": "die" | "pause"}: what to do at the n-th step since the
                file came; taken away when it strikes. Steps are the controllers' commits and calls, the agents' calls of drivers, their
                writes of files and the calls that they answer.
  FOLDER/steps  a line for each step since the plan came: what a clean run does can be read there
  FOLDER/go     what stands still goes on when this comes
"""

import asyncio
import functools
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
PLAN, STEPS, GO = FOLDER / "plan", FOLDER / "steps", FOLDER / "go"
PAUSE_S = 20.0
# Reads and what is done all the time tell nothing about the work under way.
_QUIET = ("Describe", "Get", "List", "Watch", "Read", "Acknowledge")
_COMPUTE = ("define", "start", "resume", "ask_to_stop", "cut_power", "undefine")
_NETWORK = ("make_bridge", "make_tunnel", "make_metadata", "change_entries", "admit_tunnels", "open_listener", "remove_network")
_PORT = ("put_reachable", "put_rules", "admit", "plug", "remove_tap", "remove_reachable")
_STORAGE = ("ensure_volume", "delete_volume", "set_owner", "disk_source", "break_dead_lock")
_count = 0
_of_plan = b""


async def _strike(when: str, index: int) -> None:
    """Do what the plan says if this is the step that it names."""
    plan = json.loads(_of_plan)
    if index != plan["index"] or when != plan["when"] or not PLAN.exists():
        return
    PLAN.unlink(missing_ok=True)
    if plan["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    async with asyncio.timeout(PAUSE_S):
        while not GO.exists():  # noqa: ASYNC110  # a file comes from outside
            await asyncio.sleep(0.01)
    GO.unlink(missing_ok=True)


async def _step(label: str, act: Callable[[], Awaitable[Any]]) -> Any:
    global _count, _of_plan
    try:
        plan = PLAN.read_bytes()
    except FileNotFoundError:
        return await act()
    if plan != _of_plan:
        _count, _of_plan = 0, plan
    index, _count = _count, _count + 1
    with STEPS.open("a") as steps:
        steps.write(f"{label}\n")
    await _strike("before", index)
    answer = await act()
    await _strike("after", index)
    return answer


def _wrap(owner: Any, name: str, label: str = "") -> None:
    inner = getattr(owner, name)

    @functools.wraps(inner)
    async def mortal(*arguments: Any, **named: Any) -> Any:
        return await _step(label or name, lambda: inner(*arguments, **named))

    setattr(owner, name, mortal)


def _controller() -> Callable[[], int | None]:
    from controller.main import main
    from kumo.rpc import client as rpc
    from kumo.store import client as store

    call = rpc._Answered.__call__

    async def dying_call(self: Any, *arguments: Any, **named: Any) -> Any:
        label = self._method.rsplit("/", 1)[-1]
        if label.startswith(_QUIET):
            return await call(self, *arguments, **named)
        return await _step(label, lambda: call(self, *arguments, **named))

    rpc._Answered.__call__ = dying_call  # type: ignore[method-assign]  # the point of this file
    _wrap(store.Etcd, "txn", "commit")
    return main


def _agent() -> Callable[[], int | None]:
    from agent.compute.libvirt import LibvirtHypervisor
    from agent.main import main
    from agent.network.kernel import KernelDriver
    from agent.state import StateFiles
    from agent.storage.rbd import RbdDriver
    from kumo.rpc.interceptor import Interceptor

    for owner, names in (
        (LibvirtHypervisor, _COMPUTE),
        (KernelDriver, _NETWORK + _PORT),
        (RbdDriver, _STORAGE),
        (StateFiles, ("save", "remove")),
    ):
        for name in names:
            _wrap(owner, name, f"file {name}" if owner is StateFiles else name)
    answering = Interceptor._answering

    def dying_answering(self: Any, method: Any, inner: Callable[..., Awaitable[Any]]) -> Any:
        serve = answering(self, method, inner)
        if method.name.startswith(_QUIET):
            return serve

        async def answer(request: Any, context: Any) -> Any:
            return await _step(f"answer {method.name}", lambda: serve(request, context))

        return answer

    Interceptor._answering = dying_answering  # type: ignore[method-assign]
    return main


if __name__ == "__main__":
    module = sys.argv[2]
    del sys.argv[1:3]
    sys.exit({"controller.main": _controller, "agent.main": _agent}[module]()())
