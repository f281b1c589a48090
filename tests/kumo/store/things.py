"""The noun of the store's tests, its table, and what they wait for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from kumo.store.plane import Plane
from kumo.store.record import Reference
from kumo.store.table import Table
from tests.kumo.store.record_pb2 import Thing


def things(plane: Plane) -> Table[Thing]:
    def references(thing: Thing) -> Iterable[Reference]:
        yield Reference(Thing, thing.spec.target_uid, field="spec.target")
        yield Reference(Thing, thing.spec.owner_uid, owned=True)

    indexes: dict[str, Callable[[Thing], Iterable[str]]] = {"color": lambda thing: [thing.spec.color]}
    return plane.table(Thing, indexes=indexes, references=references)


def thing(name: str, *, color: str = "", size: int = 0, target: str = "", owner: str = "") -> Thing:
    spec = Thing.Spec(color=color, size=size, target_uid=target, owner_uid=owner)
    return Thing(name=name, spec=spec)


async def create(plane: Plane, table: Table[Thing], record: Thing) -> Thing:
    txn = plane.txn()
    made = txn.create(table, record)
    await txn.commit()
    return made


async def update(plane: Plane, table: Table[Thing], old: Thing, *, size: int) -> Thing:
    new = Thing()
    new.CopyFrom(old)
    new.spec.size = size
    txn = plane.txn()
    made = txn.update_intent(table, old, new)
    await txn.commit()
    return made


async def delete(plane: Plane, table: Table[Thing], record: Thing) -> int:
    txn = plane.txn()
    txn.delete(table, record)
    return await txn.commit()


async def until(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 15.0) -> None:
    """Wait for `condition`, looking often."""
    async with asyncio.timeout(timeout_s):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)
