"""Creates and verbs, once for every noun: tried again when what they were based on changed, done once for one request id.

What a noun's creation consists of, it says in its own file by a function that fills a transaction.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from controller.region import access
from controller.region.requests import Request
from controller.region.standard import ATTEMPTS, Standard
from kumo.api.identity.v1.project_pb2 import Project
from kumo.errors import Error, NotFound
from kumo.ids import new_uid
from kumo.names import join
from kumo.rpc.call import current_principal
from kumo.store.txn import Txn

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Outcome(Generic[M]):
    """What a transaction makes of the record, and how it changes the counters of the project."""

    record: M
    project_uid: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)


class Creatable(Standard[M]):
    """A noun that clients create; CreateX calls once() with a function of its own."""

    async def once(self, request: Any, fill: Callable[[Txn], Awaitable[Outcome[M]]]) -> M:
        """Commit what `fill` puts in a transaction; a request that was done before is answered by what it made, as it is now."""
        known = Request.of(request)
        try:
            for attempt in range(1, ATTEMPTS + 1):
                txn = self.region.plane.txn()
                outcome = await fill(txn)
                if known is not None:
                    known.record(txn, _uid(outcome.record), self.region.events.now())
                if await self.committed(txn, attempt, outcome.project_uid, outcome.usage, validate_only=request.validate_only):
                    return self.shown(outcome.record)
                if known is not None and (done := await self._answer(known)) is not None:
                    return done
        except Error:
            # Also when the name is taken, or what was asked for is not possible any more: the first of two equal requests did it.
            if known is not None and (done := await self._answer(known)) is not None:
                return done
            raise
        raise AssertionError("committed() raises in the last attempt")

    async def draft(self, request: Any) -> tuple[M, str]:
        """Return the record that is asked for, with its name and a uid, and the uid of its project, empty if it lies in none."""
        parent: str = request.parent if "parent" in request.DESCRIPTOR.fields_by_name else ""
        project = await self.project(parent) if parent else None
        asked: Any = getattr(request, self.word)
        record = type(asked)()
        record.CopyFrom(asked)
        record.name = join(parent, f"{self.word}s", getattr(request, f"{self.word}_id"))
        record.uid = new_uid()
        return record, project.uid if project is not None else ""

    async def project(self, name: str) -> Project:
        """Raises NotFound for one that is not there or not the caller's, and for the system's, in which nothing is made."""
        project = await self.region.tables.projects.get(name)
        if project is None or name == access.SYSTEM_PROJECT or not access.may_reach(name, current_principal()):
            raise access.not_found(name, "project", field="parent")
        return project

    def created(self, txn: Txn, record: M) -> M:
        """Have `txn` create `record` and tell of it."""
        stored = txn.create(self.table, record)
        self.region.events.add(txn, stored, "CREATED", f"the {self.word} was asked for")
        return stored

    async def _answer(self, known: Request) -> M | None:
        """Return what this request has made before, or None. Raises NotFound if that is gone again."""
        uid = await known.answered(self.region.plane)
        if not uid:
            return None
        record = await self.table.get_by_uid(uid, min_revision=await self.region.plane.revision())
        if record is None:
            message = f"request {known.request_id} was done, and the {self.word} that it made is gone since"
            raise NotFound("RESULT_GONE", message, field="request_id", fix="send a new request_id to create another one")
        return self.shown(record)


def _uid(record: Any) -> str:
    uid: str = record.uid
    return uid
