"""Wakes a loop for every thing that cells hold, when it changes and now and then; the keys of such a loop are KIND/UID."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from kumo.loop import Loop
from kumo.store.table import Table


def keys_of(tables: Mapping[str, Table[Any]]) -> Callable[[], Iterable[str]]:
    """Return what lists the keys of all there is, for a loop's resync."""
    return lambda: [f"{kind}/{uid}" for kind, table in tables.items() for uid in table.mirror.replica.entries]


@contextmanager
def woken(loop: Loop, tables: Mapping[str, Table[Any]]) -> Iterator[None]:
    """Inside the block, add the key of each record of `tables` that changes, and of all there are."""
    with ExitStack() as endings:
        for kind, table in tables.items():
            endings.callback(table.on_change(_adding(loop, kind)))
        yield


def _adding(loop: Loop, kind: str) -> Callable[[str], None]:
    return lambda uid: loop.add(f"{kind}/{uid}")
