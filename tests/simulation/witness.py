"""Stands beside parts of Kumo and sees what no store and no host shows: who believes to lead, and what is worked on at once."""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

from kumo.loop import Loop
from kumo.store.election import Election
from tests.simulation.loop import NODE, Node, VirtualLoop
from tests.simulation.machines import Machines

_elections: list[tuple[Node, Any]] = []
_doubled: list[str] = []


def install(loop: VirtualLoop) -> None:
    """Look on from now on, in this process."""
    begin: Callable[..., None] = Election.__init__
    call: Callable[..., Any] = Loop._call
    at_work: Counter[tuple[int, str]] = Counter()

    @functools.wraps(begin)
    def begun(self: Any, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        _elections.append((NODE.get(), self))

    @functools.wraps(call)
    async def called(self: Any, key: str) -> None:
        at_work[(id(self), key)] += 1
        if at_work[(id(self), key)] > 1:
            _doubled.append(f"{loop.time():9.4f} {NODE.get()}: two workers of the loop {self.name} are on {key}")
        try:
            await call(self, key)
        finally:
            at_work[(id(self), key)] -= 1

    setattr(Election, "__init__", begun)  # noqa: B010  # it looks on, and changes nothing
    setattr(Loop, "_call", called)  # noqa: B010


def seen(world: Machines) -> list[str]:
    """Return what was seen since the last time."""
    found, _doubled[:] = list(_doubled), []
    for node, election in _elections:
        if not node.is_alive or node.is_paused or not election.is_leading:
            continue
        lease = world.data.leases.get(election._lease.id)
        if lease is None:
            found.append(f"{world.loop.time():9.4f} {node} believes that it leads, and its lease has ended")
    return found
