"""Turns the steps of a table into what one watcher sees: records through its filter, each with the token to resume after it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic

from kumo.store.record import Entry, M
from kumo.store.replica import Delta, Step
from kumo.store.token import Position, Tokens

Match = Callable[[M], bool]


class Kind(Enum):
    """What a change says. SYNCED: up to here is what was; it carries no record, and comes again as a bookmark."""

    EXISTING = "existing"
    SYNCED = "synced"
    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


@dataclass(frozen=True)
class Change(Generic[M]):
    """`record` is what is after the change, or what was before a delete. EXISTING has no token: start anew."""

    kind: Kind
    record: M | None
    resume_token: str
    revision: int


@dataclass(frozen=True)
class View(Generic[M]):
    """One watcher's filter. A record that begins to fit is CREATED to it, one that fits no more is DELETED."""

    joined: Callable[[Entry], M]
    tokens: Tokens
    scope: str
    prefix: str
    match: Match[M] | None

    def seen(self, entry: Entry | None) -> M | None:
        """Return the record if it exists and fits."""
        if entry is None or not entry.name.startswith(self.prefix):
            return None
        record = self.joined(entry)
        return record if self.match is None or self.match(record) else None

    def changes(self, step: Step, delivered: int) -> Iterator[Change[M]]:
        """Yield the changes of `step` without the first `delivered` ones."""
        last = len(step.deltas) - 1
        for number, delta in enumerate(step.deltas):
            if number >= delivered:
                position = Position(step.revision) if number == last else Position(step.since, number + 1)
                if (change := self._change(delta, position, step.revision)) is not None:
                    yield change

    def synced(self, revision: int) -> Change[M]:
        return Change(Kind.SYNCED, None, self.tokens.resume(Position(revision), self.scope), revision)

    def token(self, position: Position) -> str:
        return self.tokens.resume(position, self.scope)

    def _change(self, delta: Delta, position: Position, revision: int) -> Change[M] | None:
        before, after = self.seen(delta.before), self.seen(delta.after)
        if after is not None:
            return Change(Kind.UPDATED if before is not None else Kind.CREATED, after, self.token(position), revision)
        if before is not None:
            return Change(Kind.DELETED, before, self.token(position), revision)
        return None
