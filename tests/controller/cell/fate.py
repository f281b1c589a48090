"""Ends a controller just before or just after a chosen commit or agent call, as suddenly as a kill: from then on it does nothing more.

A first run without an end to come writes down the steps, so that a test can choose each of them in turn.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from controller.cell.session import Dial
from kumo.store.client import Etcd
from kumo.store.etcd import rpc_pb2

# Calls that change nothing, and what goes on all the time.
_QUIET = ("Describe", "List", "Watch")


@dataclass
class Fate:
    """`strike_at` counts the steps from arm() on; None: never. `struck` is set when it came, and everything stands still."""

    strike_at: int | None = None
    before: bool = True
    steps: list[str] = field(default_factory=list)
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    is_armed: bool = False

    def arm(self) -> None:
        """Count from here on."""
        self.is_armed = True

    async def step(self, label: str, act: Any) -> Any:
        if self.struck.is_set():
            await self._stand_still()
        if not self.is_armed:
            return await act()
        number = len(self.steps)
        self.steps.append(label)
        if number == self.strike_at and self.before:
            await self._strike()
        answer = await act()
        if self.struck.is_set():
            await self._stand_still()
        if number == self.strike_at:
            await self._strike()
        return answer

    def mortal(self, dial: Dial) -> Dial:
        async def dialled(address: str, host: str) -> Any:
            return _MortalChannel(await dial(address, host), self)

        return dialled

    async def _strike(self) -> NoReturn:
        self.struck.set()
        await self._stand_still()

    async def _stand_still(self) -> NoReturn:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody wakes the dead")


class MortalEtcd(Etcd):
    """The store's client, each commit of which may be the last."""

    def __init__(self, endpoints: Sequence[str], fate: Fate) -> None:
        super().__init__(endpoints)
        self._fate = fate

    async def txn(
        self,
        compare: Sequence[rpc_pb2.Compare] = (),
        success: Sequence[rpc_pb2.RequestOp] = (),
        failure: Sequence[rpc_pb2.RequestOp] = (),
    ) -> rpc_pb2.TxnResponse:
        answer: rpc_pb2.TxnResponse = await self._fate.step("commit", lambda: super(MortalEtcd, self).txn(compare, success, failure))
        return answer


class _MortalChannel:
    """A channel each call of which may be the last."""

    def __init__(self, inner: Any, fate: Fate) -> None:
        self._inner, self._fate = inner, fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def unary_unary(self, method: str, *functions: Any, **named: Any) -> Any:
        call = self._inner.unary_unary(method, *functions, **named)
        label = method.rsplit("/", 1)[-1]
        if label.startswith(_QUIET):
            return call

        async def mortal(*arguments: Any, **more: Any) -> Any:
            return await self._fate.step(label, lambda: call(*arguments, **more))

        return mortal
