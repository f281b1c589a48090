"""What the store needs of an etcd client: kept so small that an etcd in memory can stand behind it in a simulation."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from kumo.store.etcd import kv_pb2, rpc_pb2


@dataclass(frozen=True)
class Batch:
    """Events of one watch, of whole revisions, in order; without events it says that there were none up to `revision`."""

    revision: int
    events: Sequence[kv_pb2.Event]


class Watch(Protocol):
    """An endless iterator of batches that survives cuts. Raises Compacted or WatchRefused."""

    def __aiter__(self) -> AsyncIterator[Batch]: ...
    async def __anext__(self) -> Batch: ...
    def ask_progress(self) -> None:
        """Have etcd say soon up to where this watch is complete, by a batch without events."""


class Lease(Protocol):
    """A lease kept alive in the background until `lost` is set or it is revoked."""

    id: int
    lost: asyncio.Event

    def is_held(self) -> bool:
        """Return False as soon as etcd may have let it go, by this process's own clock."""

    async def revoke(self) -> None: ...


class EtcdClient(Protocol):
    """Requests raise the classes of kumo.store.errors. Reads are sent again by the client, writes never are."""

    # Whether a progress answer can be believed (etcd 3.4.25, 3.5.8 and later).
    progress_is_exact: bool

    async def connect(self) -> str:
        """Wait until a member answers and return its version."""

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which must not raise, as a task that is cancelled when the client is closed."""

    def silent_s(self) -> float:
        """How long ago the watch stream was last heard of: what mirrors say may be that old."""

    async def range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse: ...
    async def txn(
        self,
        compare: Sequence[rpc_pb2.Compare] = (),
        success: Sequence[rpc_pb2.RequestOp] = (),
        failure: Sequence[rpc_pb2.RequestOp] = (),
    ) -> rpc_pb2.TxnResponse: ...
    async def compact(self, revision: int, *, physical: bool = False) -> None: ...
    def watch(self, key: bytes, range_end: bytes, start_revision: int) -> AbstractAsyncContextManager[Watch]: ...
    async def lease(self, ttl_s: int) -> Lease: ...
    async def revoke(self, lease_id: int) -> None: ...
