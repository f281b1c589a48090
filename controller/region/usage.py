"""Counts what each project uses, in the transaction that changes it. It sets no limit and decides nothing.

A project's counters are guarded by their revision. So that its commits do not refuse each other, those of one process go one
after another, each starting from what the one before it left; another process's commit in between leads to a Conflict.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from kumo.store.plane import Plane
from kumo.store.txn import Txn
from kumo.store.v1.values_pb2 import Usage as Stored


@dataclass(frozen=True)
class _Counter:
    amount: int
    revision: int


_NONE = _Counter(0, 0)


class Usage:
    """The counters of all projects, as this process last knew them."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._known: dict[str, dict[str, _Counter]] = {}

    async def commit(self, txn: Txn, project_uid: str, deltas: Mapping[str, int]) -> int:
        """Commit `txn` together with a change of the project's counters by `deltas`, by class; return the revision."""
        changes = {kind: delta for kind, delta in deltas.items() if delta}
        if not changes:
            return await txn.commit()
        async with self._locks[project_uid]:
            # Taken out: if the commit raises, nothing is known any more and the next one reads anew.
            counters = self._known.pop(project_uid, None)
            if counters is None:
                counters = await self._read(project_uid)
            after = {kind: counters.get(kind, _NONE).amount + delta for kind, delta in changes.items()}
            for kind, amount in after.items():
                txn.require_revision(_key(project_uid, kind), counters.get(kind, _NONE).revision)
                txn.put(_key(project_uid, kind), Stored(amount=amount).SerializeToString())
            revision = await txn.commit()
            self._known[project_uid] = counters | {kind: _Counter(amount, revision) for kind, amount in after.items()}
            return revision

    async def of(self, project_uid: str) -> dict[str, int]:
        """Return the counters by class as the store has them now."""
        return {kind: counter.amount for kind, counter in (await self._read(project_uid)).items()}

    async def _read(self, project_uid: str) -> dict[str, _Counter]:
        prefix = _key(project_uid, "")
        items = {self._plane.keys.relative(item.key).removeprefix(prefix): item for item in await self._plane.scan(prefix)}
        return {kind: _Counter(Stored.FromString(item.value).amount, item.mod_revision) for kind, item in items.items()}


def _key(project_uid: str, kind: str) -> str:
    return f"usage/{project_uid}/{kind}"
