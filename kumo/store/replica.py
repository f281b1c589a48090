"""The state of one table as a sequence of etcd events makes it: pure, no I/O. A mirror keeps one, and so does a replay."""

import sys
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Generic

from kumo.store.etcd import kv_pb2
from kumo.store.keys import INTENT, PLACEMENT, STATUS, split_part
from kumo.store.record import Entry, Indexes, M, fields, index_values

_DELETE = kv_pb2.Event.DELETE
_PARTS = (INTENT, STATUS, PLACEMENT)


@dataclass(frozen=True)
class Delta:
    """One record before and after: None where it was not, or is not."""

    before: Entry | None
    after: Entry | None

    @property
    def uid(self) -> str:
        entry = self.after or self.before
        assert entry is not None
        return entry.uid


@dataclass(frozen=True)
class Step:
    """All that happened in a table after revision `since`, up to and with `revision`, ordered by uid.

    A bridge spans a gap in what was seen: it has the net difference of many revisions.
    """

    since: int
    revision: int
    deltas: tuple[Delta, ...]
    is_bridge: bool = False


class Replica(Generic[M]):
    """Entries by uid and by name, names in order, uids by index value."""

    def __init__(self, message_type: type[M], records_prefix: bytes, indexes: Indexes[M], *, named: bool = True) -> None:
        """Unless `named`, entries have no names and none is found by one, which takes less memory."""
        self._type, self._prefix, self._indexes, self._named = message_type, records_prefix, indexes, named
        self.revision = 0
        self.entries: dict[str, Entry] = {}
        self.uid_by_name: dict[str, str] = {}
        self.names: list[str] = []
        # By index and value: one uid by itself, as nearly all values have, or several.
        self._by_index: dict[str, dict[str, str | dict[str, None]]] = {index: {} for index in indexes}
        # Parts whose intent is not there (yet): a status may come first within one load, never within one revision.
        self._orphans: dict[str, Entry] = {}

    def load(self, items: Iterable[kv_pb2.KeyValue], revision: int) -> None:
        """Fill an empty replica with what etcd held at `revision`."""
        for item in items:
            self._set_part(item)
        self.names = sorted(self.uid_by_name)
        self.revision = revision

    def apply(self, events: Iterable[kv_pb2.Event]) -> Iterator[Step]:
        """Apply events in order, one revision at a time; each step says what became of the records."""
        for revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
            before: dict[str, Entry | None] = {}
            for event in group:
                place = split_part(self._prefix, event.kv.key)
                if place is not None:
                    before.setdefault(place[0], self.entries.get(place[0]))
                    self._apply_one(event, place)
            since, self.revision = self.revision, revision
            deltas = (Delta(old, self.entries.get(uid)) for uid, old in sorted(before.items()))
            yield Step(since, revision, tuple(delta for delta in deltas if delta.before is not delta.after))

    def advance(self, revision: int) -> None:
        """Nothing happened up to `revision`."""
        self.revision = max(self.revision, revision)

    def difference(self, newer: "Replica[M]") -> Step:
        """Return what leads from this state to `newer` in one step, with the deletes that nobody saw."""
        uids = sorted(self.entries.keys() | newer.entries.keys())
        pairs = ((self.entries.get(uid), newer.entries.get(uid)) for uid in uids)
        return Step(self.revision, newer.revision, tuple(Delta(old, new) for old, new in pairs if old != new), is_bridge=True)

    def find(self, index: str, value: str) -> list[Entry]:
        return [self.entries[uid] for uid in self._uids(index, value)]

    def count(self, index: str, value: str) -> int:
        return len(self._uids(index, value))

    def by_name(self, name: str) -> Entry | None:
        uid = self.uid_by_name.get(name)
        return self.entries.get(uid) if uid is not None else None

    def names_after(self, prefix: str, last: str) -> Iterator[str]:
        """Names with `prefix` in order, after `last` (from the first one if empty)."""
        position = bisect_left(self.names, prefix if not last else last + "\0")
        while position < len(self.names) and self.names[position].startswith(prefix):
            yield self.names[position]
            position += 1

    def _apply_one(self, event: kv_pb2.Event, place: tuple[str, str]) -> None:
        uid, part = place
        if event.type != _DELETE:
            self._set_part(event.kv)
        elif part == INTENT:
            self._remove(uid)
        elif uid in self.entries:
            self._replace(uid, part, b"", 0)
        else:
            self._orphans.pop(uid, None)

    def _set_part(self, item: kv_pb2.KeyValue) -> None:
        place = split_part(self._prefix, item.key)
        if place is None:
            return
        uid, part = place
        if part in _PARTS:
            # Most uids are in many tables and indexes: each is kept once in the process.
            self._replace(sys.intern(uid), part, item.value, item.mod_revision)

    def _replace(self, uid: str, part: str, value: bytes, revision: int) -> None:
        old = self.entries.get(uid) or self._orphans.pop(uid, None) or Entry(uid, "", b"", 0, b"", 0, b"", 0)
        message = self._type.FromString(value) if part == INTENT else None
        if message is not None:
            name = fields(message).name if self._named else ""
            new = old._replace(intent=value, intent_revision=revision, name=name)
        elif part == STATUS:
            new = old._replace(status=value, status_revision=revision)
        else:
            new = old._replace(placement=value, placement_revision=revision)
        if not new.intent_revision:
            self._orphans[uid] = new
            return
        self.entries[uid] = new
        if message is not None:
            self._reindex(uid, old.intent, message)
            if self._named and not old.intent_revision:
                self._add_name(new.name, uid)

    def _remove(self, uid: str) -> None:
        old = self.entries.pop(uid, None)
        self._orphans.pop(uid, None)
        if old is None:
            return
        self._reindex(uid, old.intent, None)
        if self.uid_by_name.get(old.name) == uid:
            del self.uid_by_name[old.name]
            position = bisect_left(self.names, old.name)
            if position < len(self.names) and self.names[position] == old.name:
                del self.names[position]

    def _add_name(self, name: str, uid: str) -> None:
        if name not in self.uid_by_name and self.revision:
            insort(self.names, name)
        self.uid_by_name[name] = uid

    def _reindex(self, uid: str, old: bytes, new: M | None) -> None:
        """What the old intent was found by is read out of it again, which is seldom; kept, it would take memory for every record."""
        if not self._indexes:
            return
        before = self._values(self._type.FromString(old) if old else None)
        after = self._values(new)
        for index, value in before - after:
            uids = self._by_index[index][value]
            if isinstance(uids, dict) and len(uids) > 1:
                del uids[uid]
            else:
                del self._by_index[index][value]
        for index, value in sorted(after - before):
            uids = self._by_index[index].setdefault(value, uid)
            if isinstance(uids, dict):
                uids[uid] = None
            elif uids != uid:
                self._by_index[index][value] = {uids: None, uid: None}

    def _values(self, message: M | None) -> frozenset[tuple[str, str]]:
        return frozenset(index_values(message, self._indexes)) if message is not None else frozenset()

    def _uids(self, index: str, value: str) -> Collection[str]:
        uids = self._by_index[index].get(value, ())
        return (uids,) if isinstance(uids, str) else uids
