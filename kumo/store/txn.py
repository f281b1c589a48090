"""A transaction over many tables: it turns what shall become of records into guarded changes of keys, and commits them at once.

Raw keys may join in. What it may not assume from a mirror it guards, so that a stale one leads to Conflict and to nothing else.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from kumo.errors import AlreadyExists, InvalidArgument, Unavailable
from kumo.log import get_logger
from kumo.store import ops
from kumo.store.changes import Changes, Committed, Explain, Found, Refused, Witness
from kumo.store.commit import Committer
from kumo.store.errors import Conflict, Deposed, ReferencedError, Referrer, TargetGone
from kumo.store.etcd import rpc_pb2
from kumo.store.keys import INTENT, PLACEMENT, STATUS, Keys, check_uid
from kumo.store.ops import prefix_end
from kumo.store.record import M, Reference, fields, has, intent_bytes, serialized, status_bytes, status_of, table_name
from kumo.store.term import Term

if TYPE_CHECKING:
    from kumo.store.table import Table

log = get_logger(__name__)

_MIRROR_WAIT_S = 2.0
_LISTED = 20


@dataclass(frozen=True)
class _Leaving:
    """A record that goes, or is being deleted: nothing that stays may refer to it."""

    prefix: bytes
    name: str


class Txn:
    """One transaction, committed once. Keys given as text are relative to the plane's prefix."""

    def __init__(self, keys: Keys, committer: Committer, *, fence: Term | None = None) -> None:
        self.changes = Changes()
        self._keys, self._committer = keys, committer
        self._tables: dict[str, Table[Any]] = {}
        self._created: set[bytes] = set()
        self._targets: list[tuple[bytes, Reference]] = []
        self._leaving: list[_Leaving] = []
        self._leaving_references: set[bytes] = set()
        if fence is not None:
            self._fence(fence)

    def create(self, table: "Table[M]", message: M) -> M:
        """Add a record whose name nobody has. Returns it as it is stored; its etag is set when the commit succeeds.

        A uid, generation 1 and the times are filled in where they are not set; a status that is set is stored too.
        """
        record = table.completed(message)
        uid, name = check_uid(fields(record).uid), fields(record).name
        if not name:
            raise InvalidArgument("NAME_MISSING", f"a {table.name} needs a name", field="name")

        def taken(_: Found) -> Exception:
            return AlreadyExists("ALREADY_EXISTS", f"{name} already exists", fix="choose another name", name=name)

        intent_key, value = self._keys.part(table.name, uid, INTENT), intent_bytes(record)
        name_key, live_key = self._keys.name(table.name, name), self._keys.live(table.name, uid)
        self.changes.require(ops.create_revision_is(name_key, 0), taken)
        self.changes.require(ops.create_revision_is(intent_key, 0), taken)
        self.changes.put(intent_key, value)
        self.changes.put(name_key, uid.encode())
        self.changes.put(live_key, b"")
        self._created |= {intent_key, live_key}
        if status := status_bytes(record):
            self.changes.put(self._keys.part(table.name, uid, STATUS), status)
        self._move_references(table, None, record)
        self._changed(table, record, Witness(intent_key, 0, value))
        return record

    def update_intent(self, table: "Table[M]", old: M, new: M, *, keep_generation: bool = False) -> M:
        """Replace the intent of `old`, as it was read, by `new`. Returns what is stored; its etag is set by the commit.

        The generation is counted up and update_time set, unless `new` brings others itself. Setting delete_time is refused
        while others refer to the record. Nothing is written when the intent is the same.
        """
        uid, name = fields(old).uid, fields(old).name
        if fields(new).uid != uid or fields(new).name != name:
            raise ValueError(f"{name}: a record keeps its name and its uid")
        intent_key, revision = self._keys.part(table.name, uid, INTENT), table.revision_of(old)
        self.changes.require(ops.mod_revision_is(intent_key, revision), lambda _: Conflict(name, name=name))
        if intent_bytes(new) == intent_bytes(old):
            return new
        record = table.updated(old, new, keep_generation=keep_generation)
        value = intent_bytes(record)
        self.changes.put(intent_key, value)
        self._move_references(table, old, record)
        if has(record, "delete_time") and record.HasField("delete_time") and not old.HasField("delete_time"):
            self.changes.delete(self._keys.live(table.name, uid))
            self._leave(table, record)
        self._changed(table, record, Witness(intent_key, revision, value))
        return record

    def write_status(self, table: "Table[M]", uid: str, message: M, *, expected: M | None = None) -> bool:
        """Write `message.status` to the key of its own; False, and nothing is added, if that is what is stored.

        With `expected`, a record as it was read, its status must still be the stored one.
        """
        return self._write_part(table, uid, STATUS, status_of(message), expected)

    def write_placement(self, table: "Table[M]", uid: str, message: M) -> bool:
        """Write those fields of `message.status` that belong to the region's leader to the key of its own, likewise."""
        return self._write_part(table, uid, PLACEMENT, status_of(message), None)

    def delete(self, table: "Table[M]", record: M) -> None:
        """Remove all keys of `record`, as it was read. Refused while others refer to it that do not leave with it."""
        uid, name = fields(record).uid, fields(record).name
        intent_key, revision = self._keys.part(table.name, uid, INTENT), table.revision_of(record)
        self.changes.require(ops.mod_revision_is(intent_key, revision), lambda _: Conflict(name, name=name))
        folder = intent_key.removesuffix(INTENT.encode())
        self.changes.delete(folder, prefix_end(folder))
        self.changes.delete(self._keys.name(table.name, name))
        self.changes.delete(self._keys.live(table.name, uid))
        self._move_references(table, record, None)
        self._leave(table, record)
        self._changed(table, None, Witness(intent_key, revision, None))

    def put(self, key: str, value: bytes, *, lease: int = 0) -> None:
        self.changes.put(self._keys.raw(key), value, lease)

    def delete_key(self, key: str) -> None:
        self.changes.delete(self._keys.raw(key))

    def require_absent(self, key: str, error: Exception | None = None) -> None:
        """Guard; the commit raises `error` (Conflict if None) when it does not hold. So do all require_ methods."""
        self.changes.require(ops.create_revision_is(self._keys.raw(key), 0), _raising(key, error))

    def require_present(self, key: str, error: Exception | None = None) -> None:
        self.changes.require(ops.exists(self._keys.raw(key)), _raising(key, error))

    def require_revision(self, key: str, mod_revision: int, error: Exception | None = None) -> None:
        """0 means that the key must not exist."""
        self.changes.require(ops.mod_revision_is(self._keys.raw(key), mod_revision), _raising(key, error))

    def require_empty(self, prefix: str, error: Exception | None = None) -> None:
        self.changes.require(ops.range_is_empty(self._keys.raw(prefix)), _raising(prefix, error))

    def require_live(self, reference: Reference) -> None:
        """Guard that a record lives and is not being deleted, without referring to it."""
        self._targets.append((self._keys.live(table_name(reference.target), reference.uid), reference))

    async def commit(self) -> int:
        """Commit and return the revision, once the mirrors of the tables that changed show it.

        Raises what the first guard that did not hold stands for: Conflict, AlreadyExists, ReferencedError, TargetGone, Deposed
        or the caller's own; or Unknown, StoreFull, StoreUnreachable.
        """
        await self.prepare()
        match await self._committer.commit(self.changes):
            case Committed(revision):
                await self.settle(revision)
                return revision
            case Refused(failed, _, _):
                raise failed[0][0].explain(failed[0][1])

    async def prepare(self) -> None:
        """Add the guards that depend on all that is in here."""
        for live_key, reference in self._targets:
            if live_key not in self._created:
                self.changes.require(ops.exists(live_key), _gone(reference))
        for leaving in self._leaving:
            await self._guard_referrers(leaving)
        self._targets, self._leaving = [], []

    async def settle(self, revision: int) -> None:
        """Wait for the mirrors, so that whoever wrote reads it here. A mirror that lags does not undo the commit."""
        for table in self._tables.values():
            table.wrote(revision)
            if table.mirror.is_running:
                try:
                    await table.mirror.wait(revision, _MIRROR_WAIT_S)
                except Unavailable as error:
                    log.warning("mirror lags behind a commit", table=table.name, why=error.message)

    def touched(self) -> "Iterable[Table[Any]]":
        return self._tables.values()

    def _fence(self, term: Term) -> None:
        lead, incarnation = self._keys.raw("lead"), self._keys.raw("incarnation")
        self.changes.require(ops.create_revision_is(lead, term.create_revision), lambda _: Deposed(str(term)))
        self.changes.require(ops.value_is(incarnation, term.incarnation.encode()), lambda _: Deposed(str(term)))

    def _changed(self, table: "Table[Any]", record: Message | None, witness: Witness) -> None:
        self._tables[table.name] = table
        self.changes.witness = self.changes.witness or witness
        if record is not None:
            self.changes.stamped.append(record)

    def _write_part(self, table: "Table[M]", uid: str, part: str, content: M, expected: M | None) -> bool:
        key, value = self._keys.part(table.name, uid, part), serialized(content)
        intent_key = self._keys.part(table.name, uid, INTENT)
        if intent_key in self._created:
            self.changes.put(key, value)
            return True
        entry = table.mirror.replica.entries.get(uid)
        if entry is None:
            raise Conflict(f"{table.name} {uid}", uid=uid)
        stored, revision = (entry.status, entry.status_revision) if part == STATUS else (entry.placement, entry.placement_revision)
        if expected is not None and serialized(status_of(table.joined(entry))) != serialized(status_of(expected)):
            raise Conflict(f"the status of {entry.name}", name=entry.name)
        if revision and stored == value and table.is_current():
            return False
        self.changes.require(ops.mod_revision_is(key, revision), lambda _: Conflict(f"the {part} of {entry.name}", name=entry.name))
        if not revision:
            self.changes.require(ops.exists(intent_key), lambda _: Conflict(entry.name, name=entry.name))
        self.changes.put(key, value)
        self._changed(table, None, Witness(key, revision, value))
        return True

    def _move_references(self, table: "Table[M]", old: M | None, new: M | None) -> None:
        """Bring reference keys from those of `old` to those of `new`, and have what is newly referred to live."""
        before, after = table.references(old), table.references(new)
        if old is not None:
            for what, reference in before.items():
                if what not in after and not reference.owned:
                    self.changes.delete(table.reference_key(old, reference))
        if new is not None:
            for what, reference in after.items():
                if what in before:
                    continue
                self._targets.append((self._keys.live(*what[:2]), reference))
                if not reference.owned:
                    self.changes.put(table.reference_key(new, reference), fields(new).name.encode())

    def _leave(self, table: "Table[M]", record: M) -> None:
        self._leaving.append(_Leaving(self._keys.references_to(table.name, fields(record).uid), fields(record).name))
        references = table.references(record).values()
        self._leaving_references |= {table.reference_key(record, reference) for reference in references if not reference.owned}

    async def _guard_referrers(self, leaving: _Leaving) -> None:
        """Require that nothing refers to a leaving record but what leaves with it."""
        prefix = leaving.prefix
        if not any(key.startswith(prefix) for key in self._leaving_references):
            self.changes.require(ops.range_is_empty(prefix), lambda found: _referenced(leaving, found))
            return
        # etcd cannot compare a range with a list of keys: read it, and require that nothing was added since.
        present = await self._committer.etcd.range(rpc_pb2.RangeRequest(key=prefix, range_end=prefix_end(prefix)))
        staying = [item for item in present.kvs if item.key not in self._leaving_references]
        if staying:
            raise _referenced(leaving, Found(staying, len(staying)))
        unchanged = ops.nothing_created_after(prefix, present.header.revision)
        self.changes.require(unchanged, lambda found: _referenced(leaving, found))


def _raising(key: str, error: Exception | None) -> Explain:
    return lambda _: error or Conflict(key, key=key)


def _gone(reference: Reference) -> Explain:
    table = table_name(reference.target)
    return lambda _: TargetGone(table, reference.uid, reference.name, reference.field)


def _referenced(leaving: _Leaving, found: Found) -> ReferencedError:
    pieces = [(item.key[len(leaving.prefix) :].decode().split("/"), item.value.decode()) for item in found.items]
    referrers = sorted((Referrer(table, uid, name) for (table, uid), name in pieces), key=lambda referrer: referrer.name)
    return ReferencedError(leaving.name, referrers[:_LISTED], found.count)
