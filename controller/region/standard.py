"""The standard methods, once for every noun: get, list, watch, update and delete. What is a noun's own, it adds in its own file.

A read is answered from this process's mirror; a mutation returns once that mirror shows it, so that callers read what they wrote.
One that has nothing to change, or nothing it could change, asks the store whether that is so: the mirror may be behind.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from controller.region import access, filter, mask
from controller.region.events import Events
from controller.region.present import Silence, present
from controller.region.rows import Rows
from controller.region.tables import Tables
from kumo.api.type.v1 import condition_pb2
from kumo.errors import Aborted, FailedPrecondition
from kumo.names import project_of
from kumo.rpc.call import current_principal
from kumo.rpc.encoded import Encoded
from kumo.rpc.identity import Context
from kumo.rpc.views import serializer
from kumo.store.errors import Conflict, ReferencedError
from kumo.store.plane import Plane
from kumo.store.record import Entry
from kumo.store.table import Page, Table
from kumo.store.txn import Txn
from kumo.store.usage import Usage
from kumo.store.watch import Change, Kind

M = TypeVar("M", bound=Message)
Silent = Callable[[], Mapping[str, Silence]]

ATTEMPTS = 8
_KINDS = {
    Kind.EXISTING: condition_pb2.EXISTING,
    Kind.SYNCED: condition_pb2.SYNCED,
    Kind.CREATED: condition_pb2.CREATED,
    Kind.UPDATED: condition_pb2.UPDATED,
    Kind.DELETED: condition_pb2.DELETED,
}


NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Region:
    """What every noun's servicer needs: the store, its tables, the events, the counters, and which cells are silent now."""

    plane: Plane
    tables: Tables
    events: Events
    usage: Usage
    silent: Silent


class Standard(Generic[M]):
    """A servicer of one noun; GetX, ListXs, WatchXs, UpdateX and DeleteX are offered where the service has them.

    A noun adds CreateX and its verbs, says in `changeable` what updates may name, and overrides the hooks below.
    """

    changeable: tuple[str, ...] = ("labels",)

    def __init__(self, region: Region, table: Table[M], service: ServiceDescriptor) -> None:
        self.region, self.table = region, table
        self.word = table.name
        answers = {"Get": self.get, "List": self.list, "Watch": self.watch, "Update": self.update, "Delete": self.delete}
        self._types: dict[str, _Answer] = {}
        for method in service.methods:
            standard = next((word for word in answers if method.name.startswith(word)), None)
            if standard is not None and not hasattr(self, method.name):
                setattr(self, method.name, answers[standard])
            if standard in ("List", "Watch"):
                self._types[standard] = _Answer.of(method.output_type)

    async def get(self, request: Any, _context: Context) -> M:
        return self.shown(await self.read(request.name))

    async def list(self, request: Any, _context: Context) -> Message | Encoded:
        where = self._scope(request)
        match = self._match(where, request.filter)
        filter_id = f"{where.text}\n{request.filter}"
        size, token = request.page_size, request.page_token
        if match is None:
            return self._encoded(await self.table.entries(where.prefix, filter_id=filter_id, page_size=size, page_token=token))
        page = await self.table.list(where.prefix, match=match, filter_id=filter_id, page_size=size, page_token=token)
        answer = self._types["List"]
        made: Any = answer.type(next_page_token=page.next_page_token, resume_token=page.resume_token)
        getattr(made, answer.field).extend(page.items)
        return made  # type: ignore[no-any-return]  # made of a class that is only known by its descriptor

    def _encoded(self, page: Page[Entry]) -> Encoded:
        answer, audience = self._types["List"], current_principal().audience
        # What is shown of a silent cell's records depends on when that was heard last.
        row_of = answer.rows.made if self.region.silent() else answer.rows.of
        rows = [row_of(entry, audience, self._shown_entry) for entry in page.items]
        make: Any = answer.type
        rest = make(next_page_token=page.next_page_token, resume_token=page.resume_token)
        return Encoded(b"".join([*rows, serializer(answer.type.DESCRIPTOR, audience)(rest)]), audience)

    def _shown_entry(self, entry: Entry) -> M:
        return self.shown(self.table.joined(entry))

    async def watch(self, request: Any, _context: Context) -> AsyncIterator[Message]:
        where = self._scope(request)
        match = self._match(where, request.filter)
        changes = self.table.watch(
            request.resume_token or None, prefix=where.prefix, match=match, filter_id=f"{where.text}\n{request.filter}"
        )
        async with aclosing(changes):
            async for change in changes:
                yield self._told(change, is_shown=match is not None)

    async def update(self, request: Any, _context: Context) -> M:
        wanted: Any = getattr(request, self.word)
        for attempt in range(1, ATTEMPTS + 1):
            old = await self.read_to_change(wanted.name, field=f"{self.word}.name")
            self.require_etag(old, wanted.etag)
            self.require_alive(old)
            new = type(old)()
            new.CopyFrom(old)
            if not mask.apply(new, wanted, request.update_mask.paths, self.changeable, self.word):
                if await self._is_current(old, attempt):
                    return self.shown(old)
                continue
            txn = self.region.plane.txn()
            await self.before_update(txn, old, new)
            stored = txn.update_intent(self.table, old, new)
            self.region.events.add(txn, new, "UPDATED", "its intent was changed")
            if await self.committed(txn, attempt, validate_only=request.validate_only):
                return self.shown(stored)
        raise AssertionError("committed() raises in the last attempt")

    async def delete(self, request: Any, _context: Context) -> M:
        for attempt in range(1, ATTEMPTS + 1):
            old: Any = await self.read_to_change(request.name)
            self.require_etag(old, request.etag)
            if old.HasField("delete_time"):
                if await self._is_current(old, attempt):
                    return self.shown(old)
                continue
            _require_unowned(old, self.word)
            txn = self.region.plane.txn()
            deleted = await self.begin_end(txn, old)
            usage = self.usage_at_end(old)
            project_uid = await self.project_uid(old.name) if usage else ""
            self.region.events.add(txn, old, "DELETING", "its end was asked for")
            if await self.committed(txn, attempt, project_uid, usage, validate_only=request.validate_only):
                return self.shown(deleted)
        raise AssertionError("committed() raises in the last attempt")

    # Hooks of the nouns.

    async def before_update(self, txn: Txn, old: M, new: M) -> None:
        """Check and complete an update, and add what else has to change with it."""

    async def begin_end(self, txn: Txn, record: M) -> M:
        """Add to `txn` what asks for the end of `record`; return it as it is then. The finalizer does the rest."""
        deleted: M = self.mark_deleted(txn, self.table, record)
        return deleted

    def usage_at_end(self, record: M) -> Mapping[str, int]:
        """Return what begin_end() frees at once, as negative amounts; by default nothing, since the finalizer frees it."""
        return NOTHING

    # What nouns use.

    async def read(self, name: str, *, field: str = "name") -> M:
        """Return the record of this name. Raises NotFound if there is none that the caller may reach."""
        access.require_reach(name, self.word, field=field)
        record = await self.table.get(name)
        if record is None:
            raise access.not_found(name, self.word, field=field)
        return record

    async def read_to_change(self, name: str, *, field: str = "name") -> M:
        """Return the record likewise; one that is not known here may have been made just now by another controller."""
        access.require_reach(name, self.word, field=field)
        if await self.table.get(name) is None:
            await self.table.mirror.wait(await self.region.plane.revision())
        return await self.read(name, field=field)

    def shown(self, record: M) -> M:
        return present(record, self.region.silent())

    def mark_deleted(self, txn: Txn, table: Table[Any], record: Any) -> Any:
        marked = type(record)()
        marked.CopyFrom(record)
        marked.delete_time.FromDatetime(self.region.events.now())
        return txn.update_intent(table, record, marked)

    def removed(self, txn: Txn, record: Any) -> Any:
        """Have `txn` remove `record` at once; return it as it was last."""
        txn.delete(self.table, record)
        gone = type(record)()
        gone.CopyFrom(record)
        gone.delete_time.FromDatetime(self.region.events.now())
        return gone

    async def project_uid(self, name: str) -> str:
        """Return the uid of the project that `name` lies in; empty if it lies in none."""
        project = await self.region.tables.projects.get(project_of(name))
        return project.uid if project is not None else ""

    def require_etag(self, record: Any, etag: str) -> None:
        if etag and etag != record.etag:
            raise Aborted(
                "ETAG_STALE",
                f"{record.name} was changed since that version",
                field="etag",
                fix="read it again, then repeat",
                name=record.name,
            )

    def require_alive(self, record: Any) -> None:
        if record.HasField("delete_time"):
            raise FailedPrecondition("BEING_DELETED", f"{record.name} is being deleted", fix="create another one", name=record.name)

    async def committed(
        self, txn: Txn, attempt: int, project_uid: str = "", usage: Mapping[str, int] = NOTHING, *, validate_only: bool = False
    ) -> bool:
        """Commit, or only check; False if it was based on something that changed in between and should be tried again."""
        try:
            await (check(txn) if validate_only else self.region.usage.commit(txn, project_uid, usage))
        except Conflict:
            if attempt == ATTEMPTS:
                raise
            # Whoever begins again at once reads what it read before.
            await self.region.plane.caught_up(await self.region.plane.revision())
            return False
        except ReferencedError as error:
            raise _in_use(error, self.word) from error
        return True

    async def _is_current(self, record: M, attempt: int) -> bool:
        """Return whether the store has `record` as it was read: of another one that has its name by now, it says nothing."""
        txn = self.region.plane.txn()
        txn.update_intent(self.table, record, record)
        return await self.committed(txn, attempt)

    def _scope(self, request: Any) -> access.Scope:
        parent: str = request.parent if "parent" in request.DESCRIPTOR.fields_by_name else ""
        return access.scope(parent, f"{self.word}s", current_principal())

    def _match(self, where: access.Scope, text: str) -> Callable[[M], bool] | None:
        """Return what a record has to fulfil; it shows the record as well, since readers filter by what they see."""
        if not text.strip() and where.may_see is None:
            return None
        wanted = filter.parse(text, self._descriptor(), current_principal().audience)
        may_see = where.may_see

        def match(record: Any) -> bool:
            return (may_see is None or may_see(record.name)) and wanted.matches(self.shown(record))

        return match

    def _descriptor(self) -> Descriptor:
        kind = self._types["List"].item.message_type
        assert kind is not None
        return kind

    def _told(self, change: Change[M], *, is_shown: bool) -> Message:
        answer = self._types["Watch"]
        told: Any = answer.type(kind=_KINDS[change.kind], resume_token=change.resume_token)
        if change.record is not None:
            getattr(told, answer.field).CopyFrom(change.record if is_shown else self.shown(change.record))
        return told  # type: ignore[no-any-return]  # made of a class that is only known by its descriptor


@dataclass(frozen=True)
class _Answer:
    """A response type, and its field that holds the noun."""

    type: type[Message]
    item: FieldDescriptor
    rows: Rows

    @property
    def field(self) -> str:
        return self.item.name

    @classmethod
    def of(cls, descriptor: Descriptor) -> "_Answer":
        item = next(field for field in descriptor.fields if field.message_type is not None)
        return cls(GetMessageClass(descriptor), item, Rows(item))


async def check(txn: Txn) -> None:
    """Raise what a commit would raise, and change nothing: the guards are sent without the writes."""
    await txn.prepare()
    txn.changes.operations.clear()
    txn.changes.stamped.clear()
    txn.changes.witness = None
    await txn.commit()


def _require_unowned(record: Any, word: str) -> None:
    owner = getattr(record, "owner", "")
    if owner:
        raise FailedPrecondition(
            "OWNED", f"{record.name} belongs to {owner} and ends with it", fix=f"delete {owner}", name=record.name, owner=owner, noun=word
        )


def _in_use(error: ReferencedError, word: str) -> FailedPrecondition:
    """Say who refers, as far as the caller may know of them."""
    principal = current_principal()
    shown = [referrer.name for referrer in error.referrers if access.may_reach(referrer.name, principal)]
    hidden = error.count - len(shown)
    listed = ", ".join(shown) + (f"{' and ' if shown else ''}{hidden} more" if hidden else "")
    name = error.metadata["name"]
    fix = f"delete {shown[0]} first" if len(shown) == 1 and not hidden else "delete those first"
    return FailedPrecondition(
        "IN_USE", f"{name} is used by {listed}", fix=fix, name=name, noun=word, referrers=", ".join(shown), count=error.count
    )
