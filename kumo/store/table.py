"""A typed table: reads, lists and watches of one noun out of its mirror. Writes go through kumo.store.txn.

Names are in order everywhere. A reader says which revision it must see at least; what others read while etcd is away is as
old as Plane.silent_s() says.
"""

import builtins
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from kumo.clock import Clock
from kumo.errors import Aborted
from kumo.ids import new_uid
from kumo.store.history import FellBehind
from kumo.store.keys import Keys
from kumo.store.metrics import WATCH_ENDED, WATCHERS
from kumo.store.mirror import Mirror, OnChange
from kumo.store.record import Entry, Etags, Indexes, M, Parts, Reference, fields, has, join, table_name
from kumo.store.replay import follow
from kumo.store.replica import Step
from kumo.store.token import Position, Tokens
from kumo.store.watch import Change, Kind, Match, View

DEFAULT_PAGE, MOST_PAGE = 500, 1000
_PAGE_BYTES = 1 << 20
# A filter that fits little must not hold the loop: a page looks at so many records, and may be empty.
_MOST_LOOKED_AT = 2_000
_BOOKMARK_S = 60.0

T = TypeVar("T")
References = Callable[[M], Iterable[Reference]]


@dataclass(frozen=True)
class Page(Generic[T]):
    """`next_page_token` is empty on the last page. `resume_token` begins a watch that misses nothing since the first page."""

    items: Sequence[T]
    next_page_token: str
    resume_token: str
    revision: int


@dataclass(frozen=True)
class Layout(Generic[M]):
    """What a table is told about its noun."""

    message_type: type[M]
    name: str
    indexes: Indexes[M] = field(default_factory=dict)
    references: References[M] | None = None


class Table(Generic[M]):
    """Made by Plane.table()."""

    def __init__(self, layout: Layout[M], mirror: Mirror[M], *, keys: Keys, etags: Etags, tokens: Tokens, clock: Clock) -> None:
        self.name = layout.name
        self.mirror = mirror
        self.etags = etags
        self._layout, self._keys, self._tokens, self._clock = layout, keys, tokens, clock
        self._written_revision = 0

    async def get(self, name: str, *, min_revision: int = 0) -> M | None:
        await self.mirror.wait(min_revision)
        entry = self.mirror.replica.by_name(name)
        return self.joined(entry) if entry else None

    async def get_by_uid(self, uid: str, *, min_revision: int = 0) -> M | None:
        await self.mirror.wait(min_revision)
        entry = self.mirror.replica.entries.get(uid)
        return self.joined(entry) if entry else None

    async def parts(self, uid: str, *, min_revision: int = 0) -> Parts[M] | None:
        """Return intent, status and placement each by itself."""
        await self.mirror.wait(min_revision)
        entry = self.mirror.replica.entries.get(uid)
        return self._parts(entry) if entry else None

    async def find(self, index: str, value: str, *, min_revision: int = 0) -> list[M]:
        """Return the records with this index value, in the order of their names."""
        await self.mirror.wait(min_revision)
        entries = sorted(self.mirror.replica.find(index, value), key=lambda entry: entry.name)
        return [self.joined(entry) for entry in entries]

    async def uids(self, *, min_revision: int = 0) -> list[str]:
        await self.mirror.wait(min_revision)
        return list(self.mirror.replica.entries)

    async def list(
        self,
        prefix: str = "",
        *,
        match: Match[M] | None = None,
        filter_id: str = "",
        page_size: int = 0,
        page_token: str = "",
        min_revision: int = 0,
    ) -> Page[M]:
        """Return records whose names begin with `prefix` and that `match`, in order of name, as they are now.

        `filter_id` says in text what `match` does; a token fits the same prefix and filter only. What exists during a whole
        walk is on exactly one page. A page may be short, or empty, and still not the last.
        """

        def take(entry: Entry) -> M | None:
            record = self.joined(entry)
            return record if match is None or match(record) else None

        return await self._page((prefix, filter_id), page_size, page_token, take, min_revision)

    async def entries(self, prefix: str = "", *, filter_id: str = "", page_size: int = 0, page_token: str = "") -> Page[Entry]:
        """Return what list() does, as the mirror holds it."""
        return await self._page((prefix, filter_id), page_size, page_token, lambda entry: entry)

    async def _page(
        self, asked: tuple[str, str], page_size: int, page_token: str, take: Callable[[Entry], T | None], min_revision: int = 0
    ) -> Page[T]:
        """Return one page of what `take` makes of entries; `asked` are the prefix and the id of the filter."""
        scope, last = self._scope(*asked), ""
        first_revision = 0
        if page_token:
            first_revision, last = self._tokens.read_page(page_token, scope)
        await self.mirror.wait(max(min_revision, first_revision))
        revision = first_revision or self.mirror.revision
        items, last_looked_at, is_whole = self._look(asked[0], last, take, min(page_size or DEFAULT_PAGE, MOST_PAGE))
        token = "" if is_whole else self._tokens.page(revision, last_looked_at, scope)
        return Page(items, token, self._tokens.resume(Position(revision), scope), revision)

    async def watch(
        self,
        resume_token: str | None = None,
        *,
        prefix: str = "",
        match: Match[M] | None = None,
        filter_id: str = "",
        bookmark_s: float = _BOOKMARK_S,
    ) -> AsyncGenerator[Change[M], None]:
        """Yield what is and SYNCED, or what changed since `resume_token` and SYNCED; then every change, one revision after another.

        Raises Aborted: RESUME_TOKEN_EXPIRED when what happened since is forgotten, WATCH_TOO_SLOW (with a resume_token) when the
        reader does not keep up.
        """
        view = View(self.joined, self._tokens, self._scope(prefix, filter_id), prefix, match)
        await self.mirror.wait()
        WATCHERS.labels(self.name).inc()
        try:
            if resume_token:
                position = self._tokens.read_resume(resume_token, view.scope)
                await self.mirror.wait(position.revision)
            else:
                position = Position(self.mirror.revision)
                replica = self.mirror.replica
                for entry in [replica.by_name(name) for name in replica.names_after(prefix, "")]:
                    if (record := view.seen(entry)) is not None:
                        yield Change(Kind.EXISTING, record, "", position.revision)
            async with aclosing(self._changes(view, position, bookmark_s)) as changes:
                async for change in changes:
                    yield change
        finally:
            WATCHERS.labels(self.name).dec()

    def on_change(self, callback: OnChange) -> Callable[[], None]:
        """Call `callback` with the uid of each record that changes, and with all there are. Returns what ends it."""
        return self.mirror.on_change(callback)

    def joined(self, entry: Entry) -> M:
        return join(self._layout.message_type, entry, self.etags)

    def completed(self, message: M) -> M:
        """Return a copy of a new record with uid, generation and times filled in."""
        record = self._layout.message_type()
        record.CopyFrom(message)
        common = fields(record)
        common.uid = common.uid or new_uid()
        if has(record, "generation"):
            common.generation = common.generation or 1
        now = Timestamp()
        now.FromDatetime(self._clock.now())
        for name in ("create_time", "update_time"):
            if has(record, name) and not record.HasField(name):
                getattr(common, name).CopyFrom(now)
        return record

    def updated(self, old: M, new: M, *, keep_generation: bool) -> M:
        """Return a copy of `new` with generation and update_time counted on, where it does not bring its own."""
        record = self._layout.message_type()
        record.CopyFrom(new)
        common = fields(record)
        if has(record, "generation") and common.generation == fields(old).generation and not keep_generation:
            common.generation += 1
        if has(record, "update_time") and common.update_time == fields(old).update_time:
            common.update_time.FromDatetime(self._clock.now())
        return record

    def revision_of(self, record: M) -> int:
        """Return the revision that `record` was read at: by its etag or, if its type has none, as the mirror has it; -1 for neither."""
        if has(record, "etag"):
            return self.etags.revision(fields(record).etag)
        entry = self.mirror.replica.entries.get(fields(record).uid)
        return entry.intent_revision if entry else -1

    def references(self, record: M | None) -> dict[tuple[str, str, bool], Reference]:
        """Return what `record` refers to, each once, by table, uid and whether it is its owner; nothing for None."""
        if record is None or self._layout.references is None:
            return {}
        found = self._layout.references(record)
        return {(table_name(one.target), one.uid, one.owned): one for one in found if one.uid}

    def reference_key(self, record: M, reference: Reference) -> bytes:
        """Return the key by which `record` keeps what it refers to from being deleted."""
        return self._keys.reference((table_name(reference.target), reference.uid), self.name, fields(record).uid)

    def wrote(self, revision: int) -> None:
        """Remember that this process changed the table at `revision`."""
        self._written_revision = max(self._written_revision, revision)

    def is_current(self) -> bool:
        """Return whether the mirror shows all that this process wrote."""
        return self.mirror.revision >= self._written_revision

    def _scope(self, prefix: str, filter_id: str) -> str:
        return f"{self.name}\n{prefix}\n{filter_id}"

    def _parts(self, entry: Entry) -> Parts[M]:
        make = self._layout.message_type.FromString
        intent = join(self._layout.message_type, entry._replace(status=b"", placement=b""), self.etags)
        status = make(entry.status) if entry.status_revision else None
        placement = make(entry.placement) if entry.placement_revision else None
        return Parts(intent, entry.intent_revision, status, entry.status_revision, placement, entry.placement_revision)

    def _look(self, prefix: str, last: str, take: Callable[[Entry], T | None], page_size: int) -> tuple[Sequence[T], str, bool]:
        """Return the items of one page, the last name looked at, and whether that was the last there is."""
        items: builtins.list[T] = []
        size = looked_at = 0
        for name in self.mirror.replica.names_after(prefix, last):
            if len(items) >= page_size or size >= _PAGE_BYTES or looked_at >= _MOST_LOOKED_AT:
                return items, last, False
            last, looked_at = name, looked_at + 1
            entry = self.mirror.replica.by_name(name)
            assert entry is not None
            if (item := take(entry)) is not None:
                items.append(item)
                size += entry.size()
        return items, last, True

    async def _changes(self, view: View[M], position: Position, bookmark_s: float) -> AsyncGenerator[Change[M], None]:
        try:
            async with aclosing(follow(self.mirror, position, bookmark_s)) as items:
                async for item in items:
                    if isinstance(item, Step):
                        for change in view.changes(item, position.delivered):
                            yield change
                        position = Position(item.revision)
                    else:
                        position = Position(item.revision)
                        yield view.synced(item.revision)
        except FellBehind as error:
            WATCH_ENDED.labels(self.name, "too_slow").inc()
            message = "the reader does not keep up with the changes"
            raise Aborted("WATCH_TOO_SLOW", message, fix="resume with the token", resume_token=view.token(position)) from error
