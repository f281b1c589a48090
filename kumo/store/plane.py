"""Opens one plane, a prefix of one etcd: checks the format of what is there, knows its incarnation, runs its mirrors.

A plane's transactions never span another plane, even in the same etcd.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from kumo.clock import Clock, SystemClock
from kumo.errors import FailedPrecondition
from kumo.ids import new_uid
from kumo.log import get_logger
from kumo.store import ops
from kumo.store.barrier import Barrier
from kumo.store.changes import Changes, Committed, Refused
from kumo.store.commit import Committer
from kumo.store.election import Election
from kumo.store.errors import Unknown
from kumo.store.etcd import kv_pb2, rpc_pb2
from kumo.store.group import GroupCommit
from kumo.store.interface import EtcdClient
from kumo.store.keys import Keys
from kumo.store.loader import load_range
from kumo.store.mirror import Mirror
from kumo.store.record import Etags, Indexes, M, Reference, table_name
from kumo.store.replica import Replica
from kumo.store.table import Layout, Table
from kumo.store.term import Term
from kumo.store.token import Tokens
from kumo.store.txn import Txn
from kumo.store.v1 import values_pb2

log = get_logger(__name__)

_TOKEN_KEY_BYTES = 32
_CATCH_UP_S = 5.0


@dataclass(frozen=True)
class Sources:
    """Where time and chance come from; a simulation brings its own."""

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)


@dataclass(frozen=True)
class _Identity:
    """What a plane is, as its store says."""

    format_version: int
    incarnation: str
    token_key: bytes


class Plane:
    """An async context manager: inside it the mirrors of its tables run. Made by open()."""

    def __init__(self, etcd: EtcdClient, prefix: str, identity: _Identity, sources: Sources) -> None:
        self.etcd, self.keys, self._sources = etcd, Keys(prefix.rstrip("/")), sources
        self.format_version, self.incarnation = identity.format_version, identity.incarnation
        self.etags = Etags(identity.incarnation)
        self._tokens = Tokens(identity.incarnation, identity.token_key)
        self._committer = Committer(GroupCommit(etcd, Barrier(etcd, self.keys, sources.rng)), sources.clock, sources.rng, self.etags)
        self._tables: dict[str, Table[Any]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self.election = Election(
            etcd, self.keys.raw("lead"), self.incarnation, caught_up=self.caught_up, clock=sources.clock, rng=sources.rng
        )

    @classmethod
    async def open(cls, etcd: EtcdClient, prefix: str, *, format_version: int, sources: Sources | None = None) -> "Plane":
        """Make the plane's identity if there is none, and compare its format with the newest that this process knows.

        Raises FailedPrecondition STORE_FORMAT_NEWER.
        """
        sources = sources or Sources()
        version = await etcd.connect()
        keys = Keys(prefix.rstrip("/"))
        identity = await _identity(etcd, keys, format_version)
        if identity.format_version > format_version:
            raise FailedPrecondition(
                "STORE_FORMAT_NEWER",
                f"{prefix} is kept in format {identity.format_version}; this program knows up to {format_version}",
                fix="run a newer version of Kumo",
                stored=identity.format_version,
                known=format_version,
            )
        log.info("plane opened", prefix=prefix, incarnation=identity.incarnation, format=identity.format_version, etcd=version)
        return cls(etcd, prefix, identity, sources)

    async def __aenter__(self) -> Self:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        for table in self._tables.values():
            self.start(table.mirror.run())
        return self

    async def __aexit__(self, *reason: object) -> None:
        tasks, self._tasks = self._tasks, None
        for task in list(self._running):
            task.cancel()
        if tasks is not None:
            await tasks.__aexit__(None, None, None)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task of the plane, which ends with it. Only inside the plane's context."""
        assert self._tasks is not None, "the plane is not entered"
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def table(
        self,
        message_type: type[M],
        *,
        indexes: Indexes[M] | None = None,
        references: Callable[[M], Iterable[Reference]] | None = None,
        name: str = "",
    ) -> Table[M]:
        """Return the table of a noun, made once. `name` is for a second table of the same message."""
        layout = Layout(message_type, name or table_name(message_type), indexes or {}, references)
        if layout.name in self._tables:
            raise ValueError(f"the table {layout.name} is there already")
        prefix = self.keys.records(layout.name)

        def replica() -> Replica[M]:
            return Replica(message_type, prefix, layout.indexes)

        mirror = Mirror(self.etcd, self.keys, layout.name, replica, clock=self._sources.clock)
        table = Table(layout, mirror, keys=self.keys, etags=self.etags, tokens=self._tokens, clock=self._sources.clock)
        self._tables[layout.name] = table
        if self._tasks is not None:
            self.start(mirror.run())
        return table

    def txn(self, *, fence: Term | None = None) -> Txn:
        """Begin a transaction; with `fence`, it is refused (Deposed) unless that term still leads."""
        return Txn(self.keys, self._committer, fence=fence)

    async def send(self, changes: Changes) -> Committed | Refused:
        """Commit changes that were put together from several transactions; for kumo.store.usage."""
        return await self._committer.commit(changes)

    async def read(self, key: str) -> kv_pb2.KeyValue | None:
        """Return a raw key, relative to the prefix, as etcd has it now."""
        found = await self.etcd.range(rpc_pb2.RangeRequest(key=self.keys.raw(key)))
        return found.kvs[0] if found.kvs else None

    async def scan(self, prefix: str) -> list[kv_pb2.KeyValue]:
        """Return all raw keys with a prefix. For prefixes with little behind them."""
        return await load_range(self.etcd, self.keys.raw(prefix))

    async def revision(self) -> int:
        """Return the present revision of the store: read with it as min_revision to see all that was written before now."""
        return (await self.etcd.range(rpc_pb2.RangeRequest(key=self.keys.raw("incarnation"), count_only=True))).header.revision

    async def caught_up(self, revision: int = 0) -> None:
        """Return once every mirror is loaded and at `revision` or later. Raises Unavailable MIRROR_BEHIND."""
        for table in self._tables.values():
            await table.mirror.wait(revision, _CATCH_UP_S)

    def silent_s(self) -> float:
        """How long ago etcd was last heard of; reads are that old at most."""
        return self.etcd.silent_s()


async def _identity(etcd: EtcdClient, keys: Keys, format_version: int) -> _Identity:
    """Return the plane's identity; whoever comes first makes it."""
    names = [keys.raw(name) for name in ("incarnation", "format", "token-key")]
    values = [
        new_uid().encode(),
        values_pb2.Format(version=format_version).SerializeToString(),
        secrets.token_bytes(_TOKEN_KEY_BYTES),
    ]
    # Reading first: a plane that is there must open also when the store is full.
    found = [(await etcd.range(rpc_pb2.RangeRequest(key=name))).kvs for name in names]
    while not all(found):
        puts = [ops.put(name, value) for name, value in zip(names, values, strict=True)]
        with suppress(Unknown):  # then the next look tells
            await etcd.txn([ops.create_revision_is(names[0], 0)], puts)
        found = [(await etcd.range(rpc_pb2.RangeRequest(key=name))).kvs for name in names]
    incarnation, format_value, token_key = (kvs[0].value for kvs in found)
    return _Identity(values_pb2.Format.FromString(format_value).version, incarnation.decode(), token_key)
