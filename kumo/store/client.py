"""A thin etcd v3 client: typed requests, sticky endpoints, one stream for all watches, leases.

Reads are sent again until their time is up. A write is sent again only when it certainly was not begun; any other silence is
raised as Unknown, since it may have happened.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from kumo.clock import Clock, SystemClock
from kumo.errors import Unavailable
from kumo.lasting import is_being_cancelled, lasting
from kumo.log import get_logger
from kumo.store.endpoints import Endpoint, Endpoints
from kumo.store.errors import Compacted, LeaseGone, StoreReplaced, StoreUnreachable, Unknown, is_endpoint_fault, translate
from kumo.store.etcd import rpc_pb2 as pb
from kumo.store.interface import Watch
from kumo.store.lease import KeptLease
from kumo.store.metrics import REQUESTS
from kumo.store.stream import WatchStream
from kumo.tls import TlsFiles

log = get_logger(__name__)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_RETRY_S = (0.01, 0.05)


@dataclass(frozen=True)
class _Method(Generic[Request, Response]):
    """A unary method by etcd's own name."""

    path: str
    request: type[Request]
    response: type[Response]
    is_read: bool = False


_RANGE = _Method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse, is_read=True)
_TXN = _Method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
_COMPACT = _Method("/etcdserverpb.KV/Compact", pb.CompactionRequest, pb.CompactionResponse)
_GRANT = _Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
_REVOKE = _Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
_STATUS = _Method("/etcdserverpb.Maintenance/Status", pb.StatusRequest, pb.StatusResponse, is_read=True)
_ALARM = _Method("/etcdserverpb.Maintenance/Alarm", pb.AlarmRequest, pb.AlarmResponse)
_DEFRAGMENT = _Method("/etcdserverpb.Maintenance/Defragment", pb.DefragmentRequest, pb.DefragmentResponse)
_MEMBERS = _Method("/etcdserverpb.Cluster/MemberList", pb.MemberListRequest, pb.MemberListResponse, is_read=True)


@dataclass(frozen=True)
class Patience:
    """How long the client waits: for one try, for a request with its repetitions, for somebody who takes requests at all, and for a
    sign of life of the watch stream. Where the way to etcd is long, as answers show, that much longer.
    """

    per_try_s: float = 0.8
    request_s: float = 3.0
    unreachable_s: float = 0.7
    silence_s: float = 2.0


class Etcd:
    """An async context manager; everything it started ends with it."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: TlsFiles | None = None,
        *,
        server_name: str = "",
        patience: Patience | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`endpoints` are host:port. `server_name` is what the servers' certificates say, where the addresses do not."""
        self._addresses, self._tls, self._server_name = tuple(endpoints), tls, server_name
        # With one endpoint there is nobody else to ask: giving up sooner would only make more writes unknown.
        self._patience = patience or Patience(per_try_s=0.8 if len(self._addresses) > 1 else 2.0)
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._cluster_id = 0
        self.progress_is_exact = True

    async def __aenter__(self) -> Self:
        self._endpoints = Endpoints(self._addresses, self._tls, clock=self._clock, rng=self._rng, server_name=self._server_name)
        self._stream = WatchStream(self._endpoints, clock=self._clock, rng=self._rng, silence_s=self._patience.silence_s)
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._streaming = self._tasks.create_task(lasting("the stream of watches", self._stream.run()))
        self._working: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End watches and keepalives and close the channels. Leases are left to run out."""
        self._streaming.cancel()
        for task in self._working:
            task.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            await self._endpoints.close()

    async def connect(self) -> str:
        """Wait until a member answers and return its version."""
        version = (await self._call(_STATUS, pb.StatusRequest())).version
        self.progress_is_exact = _progress_is_exact(version)
        self._stream.believes_progress = self.progress_is_exact
        return version

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    def silent_s(self) -> float:
        """What the way to etcd and back explains is no silence."""
        return max(0.0, self._stream.silent_s() - 2 * self._endpoints.current().round_trip_s)

    async def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        return await self._call(_RANGE, request)

    async def txn(
        self, compare: Sequence[pb.Compare] = (), success: Sequence[pb.RequestOp] = (), failure: Sequence[pb.RequestOp] = ()
    ) -> pb.TxnResponse:
        return await self._call(_TXN, pb.TxnRequest(compare=compare, success=success, failure=failure))

    async def compact(self, revision: int, *, physical: bool = False) -> None:
        """Forget history up to `revision`; with `physical`, return only when its space is free inside the file."""
        try:
            await self._call(_COMPACT, pb.CompactionRequest(revision=revision, physical=physical), timeout_s=60.0)
        except Compacted:
            return

    @asynccontextmanager
    async def watch(self, key: bytes, range_end: bytes, start_revision: int) -> AsyncIterator[Watch]:
        async with self._stream.watch(key, range_end, start_revision) as watch:
            yield watch

    async def lease(self, ttl_s: int) -> "Lease":
        """Be granted a lease and keep it alive until it is revoked."""
        # Half of a lease has to be left when the answer to a keepalive is here, or a long way would end it for ever.
        ttl_s = max(ttl_s, math.ceil(ttl_s / 2 + 2 * self._endpoints.current().round_trip_s))
        sent_at = self._clock.monotonic()
        granted = await self._call(_GRANT, pb.LeaseGrantRequest(TTL=ttl_s))
        kept = Lease(self, KeptLease(self._endpoints, granted.ID, granted.TTL, clock=self._clock, granted_after=sent_at))
        self.start(kept.kept.run())
        return kept

    async def revoke(self, lease_id: int) -> None:
        try:
            await self._call(_REVOKE, pb.LeaseRevokeRequest(ID=lease_id))
        except LeaseGone:
            return

    async def status(self) -> dict[str, pb.StatusResponse]:
        """Ask every member by itself; those that do not answer are left out."""
        answers: dict[str, pb.StatusResponse] = {}
        for endpoint in self._endpoints.all():
            try:
                patience_s = self._patience.per_try_s + endpoint.allowance_s
                answers[endpoint.address] = await self._try(_STATUS, pb.StatusRequest(), endpoint, patience_s)
            except (Unknown, StoreUnreachable):
                continue
        return answers

    async def alarms(self) -> list[pb.AlarmMember]:
        return list((await self._call(_ALARM, pb.AlarmRequest(action=pb.AlarmRequest.GET))).alarms)

    async def disarm(self, alarm: pb.AlarmMember) -> None:
        request = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm)
        await self._call(_ALARM, request)

    async def defragment(self, address: str) -> None:
        """Rewrite the file of one member, which answers nobody meanwhile."""
        for endpoint in self._endpoints.all():
            if endpoint.address == address:
                await self._try(_DEFRAGMENT, pb.DefragmentRequest(), endpoint, 120.0)

    async def member_count(self) -> int:
        return len((await self._call(_MEMBERS, pb.MemberListRequest())).members)

    async def _call(self, method: _Method[Request, Response], request: Request, timeout_s: float | None = None) -> Response:
        """Send until answered or out of time; see the module for what is sent again."""
        began = self._clock.monotonic()
        deadline = began + (timeout_s or self._patience.request_s + 2 * self._endpoints.current().round_trip_s)
        while True:
            left_s, endpoint = deadline - self._clock.monotonic(), self._endpoints.current()
            per_try_s = min(left_s, timeout_s or self._patience.per_try_s + endpoint.allowance_s)
            try:
                return await self._try(method, request, endpoint, max(per_try_s, 0.001))
            except (Unknown, StoreUnreachable) as error:
                is_safe = method.is_read or isinstance(error, StoreUnreachable)
                if not is_safe:
                    raise
                if isinstance(error, StoreUnreachable):
                    # Nobody takes requests: whoever asked is told so soon, and not when all else would have been tried.
                    deadline = min(deadline, began + self._patience.unreachable_s)
                if deadline - self._clock.monotonic() < _RETRY_S[1]:
                    if isinstance(error, StoreUnreachable):
                        raise
                    raise StoreUnreachable(error.message) from error
            await self._clock.sleep(self._rng.uniform(*_RETRY_S))

    async def _try(self, method: _Method[Request, Response], request: Request, endpoint: Endpoint, timeout_s: float) -> Response:
        name = method.path.rpartition("/")[2]
        started = self._clock.monotonic()
        outcome = "ok"
        try:
            call = endpoint.channel.unary_unary(
                method.path, request_serializer=method.request.SerializeToString, response_deserializer=method.response.FromString
            )
            answer: Response = await call(request, timeout=timeout_s, metadata=(("hasleader", "true"),))
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            outcome = "cancelled"
            raise Unknown("the connection ended under the call") from error
        except grpc.aio.AioRpcError as error:
            code, text = error.code(), error.details() or ""
            outcome = code.name.lower()
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                endpoint.silent_for(timeout_s)
            if is_endpoint_fault(code, text):
                self._endpoints.fault(endpoint, f"{code.name}: {text}")
            raise translate(code, text) from error
        finally:
            took_s = self._clock.monotonic() - started
            REQUESTS.labels(name, outcome).observe(took_s)
        if method is not _COMPACT and method is not _DEFRAGMENT:
            endpoint.answered(took_s)
        self._check_cluster(answer)
        return answer

    def _check_cluster(self, answer: Message) -> None:
        header: pb.ResponseHeader = answer.header  # type: ignore[attr-defined]  # every answer of etcd has one, if not always filled
        self._cluster_id = self._cluster_id or header.cluster_id
        if header.cluster_id and header.cluster_id != self._cluster_id:
            raise StoreReplaced(self._cluster_id, header.cluster_id)


class Lease:
    """A kept lease that can be revoked; what interface.Lease promises."""

    def __init__(self, etcd: Etcd, kept: KeptLease) -> None:
        self.id, self.lost, self.kept = kept.id, kept.lost, kept
        self._etcd = etcd

    def is_held(self) -> bool:
        return self.kept.is_held()

    async def revoke(self) -> None:
        """Let it go at once, so that a successor need not wait. If etcd cannot be told, it runs out by itself."""
        self.kept.end()
        try:
            await self._etcd.revoke(self.id)
        except Unavailable as error:
            log.info("lease left to run out", why=error.message)


def _progress_is_exact(version: str) -> bool:
    """Earlier versions answer for progress before the events that it covers."""
    parts = [int(part) for part in version.split("-")[0].split(".")]
    if parts[:2] == [3, 4]:
        return parts[2] >= 25
    return parts >= [3, 5, 8]
