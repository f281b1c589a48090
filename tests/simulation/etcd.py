"""An etcd of one member in memory, by its own protocol: revisions, transactions, leases, watches, compaction, history.

What it holds outlives its process. It is as awkward as the real one may be: a large revision comes in fragments, a watch that catches up
is told of the present revision long before it has the events up to it, and an error is a code and an English sentence.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from kumo.store.etcd import kv_pb2
from kumo.store.etcd import rpc_pb2 as pb

_COMPARE = pb.Compare
_FRAGMENT_EVENTS = 2
_CATCH_UP_EVENTS = 3
VERSION = "3.5.30"


class Refused(Exception):
    """What etcd says instead of an answer."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


@dataclass
class Lease:
    ttl_s: int
    expires: float
    keys: dict[bytes, None] = field(default_factory=dict)


@dataclass
class Watcher:
    """One watch of one stream; `next` is the revision that it wants next."""

    id: int
    key: bytes
    end: bytes
    next: int


class Data:
    """All that is on disk: what is now, and every revision since the last compaction."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.revision = 1
        self.compacted = 0
        self.items: dict[bytes, kv_pb2.KeyValue] = {}
        # Of each revision, its events, with what was before each.
        self.history: dict[int, list[kv_pb2.Event]] = {}
        self.leases: dict[int, Lease] = {}
        self.listeners: list[Callable[[], None]] = []
        # Who asked for what is done now, and what: for whoever looks at commits.
        self.writer, self.asked = "", b""
        self.on_commit: list[Callable[[int, list[kv_pb2.Event]], None]] = []

    def header(self) -> pb.ResponseHeader:
        return pb.ResponseHeader(cluster_id=77, member_id=1, revision=self.revision)

    # ---- reads

    def find(self, key: bytes, end: bytes, items: dict[bytes, kv_pb2.KeyValue]) -> list[kv_pb2.KeyValue]:
        if not end:
            return [items[key]] if key in items else []
        return [items[one] for one in sorted(items) if one >= key and (end == b"\0" or one < end)]

    def at(self, revision: int) -> dict[bytes, kv_pb2.KeyValue]:
        """Return what there was at a revision."""
        if revision in (0, self.revision):
            return self.items
        if revision > self.revision:
            raise Refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
        if revision < self.compacted:
            raise Refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        items = dict(self.items)
        for later in range(self.revision, revision, -1):
            for event in reversed(self.history.get(later, [])):
                if event.prev_kv.mod_revision:
                    items[event.kv.key] = event.prev_kv
                else:
                    items.pop(event.kv.key, None)
        return items

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        found = self.find(request.key, request.range_end, self.at(request.revision))
        if request.sort_target == pb.RangeRequest.CREATE:
            found.sort(key=lambda item: item.create_revision, reverse=request.sort_order == pb.RangeRequest.DESCEND)
        answer = pb.RangeResponse(header=self.header(), count=len(found))
        if request.count_only:
            return answer
        answer.more = bool(request.limit) and len(found) > request.limit
        answer.kvs.extend(found[: request.limit or None])
        return answer

    # ---- writes

    def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        succeeded = all(self._holds(compare) for compare in request.compare)
        wanted = request.success if succeeded else request.failure
        _check_once(wanted)
        events: list[kv_pb2.Event] = []
        answer = pb.TxnResponse(succeeded=succeeded)
        for operation in wanted:
            response = answer.responses.add()
            match operation.WhichOneof("request"):
                case "request_range":
                    response.response_range.CopyFrom(self.range(operation.request_range))
                case "request_put":
                    self._put(operation.request_put, events)
                    response.response_put.SetInParent()
                case "request_delete_range":
                    self._delete(operation.request_delete_range, events)
                    response.response_delete_range.SetInParent()
                case other:
                    raise NotImplementedError(f"{other} in a transaction")
        self.commit(events)
        answer.header.CopyFrom(self.header())
        return answer

    def commit(self, events: list[kv_pb2.Event]) -> None:
        """Make events, already done to `items`, the next revision."""
        if not events:
            return
        self.revision += 1
        self.history[self.revision] = events
        for told in self.on_commit:
            told(self.revision, events)
        for wake in list(self.listeners):
            wake()

    def _holds(self, compare: pb.Compare) -> bool:
        found = self.find(compare.key, compare.range_end, self.items)
        if compare.target == _COMPARE.VALUE:
            return bool(found) and all(item.value == compare.value for item in found)
        name = {_COMPARE.CREATE: "create_revision", _COMPARE.MOD: "mod_revision", _COMPARE.VERSION: "version"}[compare.target]
        wanted = getattr(compare, name)
        values = [getattr(item, name) for item in found] or ([] if compare.range_end else [0])
        if compare.result == _COMPARE.EQUAL:
            return all(value == wanted for value in values)
        if compare.result == _COMPARE.GREATER:
            return all(value > wanted for value in values)
        if compare.result == _COMPARE.NOT_EQUAL:
            return all(value != wanted for value in values)
        return all(value < wanted for value in values)

    def _put(self, put: pb.PutRequest, events: list[kv_pb2.Event]) -> None:
        if put.lease and put.lease not in self.leases:
            raise Refused(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
        before = self.items.get(put.key)
        item = kv_pb2.KeyValue(key=put.key, value=put.value, mod_revision=self.revision + 1, lease=put.lease)
        item.create_revision = before.create_revision if before is not None else self.revision + 1
        item.version = before.version + 1 if before is not None else 1
        if before is not None and before.lease in self.leases:
            self.leases[before.lease].keys.pop(put.key, None)
        if put.lease:
            self.leases[put.lease].keys[put.key] = None
        self.items[put.key] = item
        events.append(kv_pb2.Event(type=kv_pb2.Event.PUT, kv=item, prev_kv=before))

    def _delete(self, delete: pb.DeleteRangeRequest, events: list[kv_pb2.Event]) -> None:
        for item in self.find(delete.key, delete.range_end, self.items):
            self._drop(item, events)

    def _drop(self, item: kv_pb2.KeyValue, events: list[kv_pb2.Event]) -> None:
        del self.items[item.key]
        if item.lease in self.leases:
            self.leases[item.lease].keys.pop(item.key, None)
        gone = kv_pb2.KeyValue(key=item.key, mod_revision=self.revision + 1)
        events.append(kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=gone, prev_kv=item))

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise Refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        if revision > self.revision:
            raise Refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
        self.compacted = revision
        for old in [one for one in self.history if one <= revision]:
            del self.history[old]

    # ---- leases

    def grant(self, lease_id: int, ttl_s: int) -> None:
        self.leases[lease_id] = Lease(ttl_s, self._now() + ttl_s)

    def renew(self, lease_id: int) -> int:
        """Return the new time to live, 0 for a lease that there is not."""
        lease = self.leases.get(lease_id)
        if lease is None:
            return 0
        lease.expires = self._now() + lease.ttl_s
        return lease.ttl_s

    def end_lease(self, lease_id: int) -> None:
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
        events: list[kv_pb2.Event] = []
        for key in lease.keys:
            if key in self.items:
                self._drop(self.items[key], events)
        self.commit(events)

    def restarted(self) -> None:
        """After a change of leader, leases have their whole time again."""
        for lease in self.leases.values():
            lease.expires = self._now() + lease.ttl_s


def _check_once(operations: Iterable[pb.RequestOp]) -> None:
    written: set[bytes] = set()
    for operation in operations:
        if operation.WhichOneof("request") == "request_put":
            key = operation.request_put.key
            if key in written:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
            written.add(key)


class Service:
    """The process of the member: answers calls, ends leases, feeds watches."""

    def __init__(self, data: Data, rng: random.Random) -> None:
        self.data, self._rng = data, rng

    async def run(self) -> None:
        """End leases whose time is up, for ever."""
        self.data.restarted()
        while True:
            await asyncio.sleep(0.1)
            now = asyncio.get_running_loop().time()
            for lease_id in [one for one, lease in self.data.leases.items() if lease.expires <= now]:
                self.data.end_lease(lease_id)

    def handlers(self) -> dict[str, Any]:
        """Return every method by its path, as a server keeps them."""
        unary: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "KV/Range": (pb.RangeRequest, self.data.range),
            "KV/Txn": (pb.TxnRequest, self.data.txn),
            "KV/Compact": (pb.CompactionRequest, self._compact),
            "Lease/LeaseGrant": (pb.LeaseGrantRequest, self._grant),
            "Lease/LeaseRevoke": (pb.LeaseRevokeRequest, self._revoke),
            "Maintenance/Status": (pb.StatusRequest, lambda _: pb.StatusResponse(header=self.data.header(), version=VERSION)),
            "Maintenance/Alarm": (pb.AlarmRequest, lambda _: pb.AlarmResponse(header=self.data.header())),
            "Cluster/MemberList": (pb.MemberListRequest, lambda _: pb.MemberListResponse(header=self.data.header())),
        }
        streams: dict[str, tuple[Any, Any]] = {
            "Watch/Watch": (pb.WatchRequest, self._watch),
            "Lease/LeaseKeepAlive": (pb.LeaseKeepAliveRequest, self._keep_alive),
        }
        found = {f"/etcdserverpb.{path}": _handler(request, _answering(self.data, answer)) for path, (request, answer) in unary.items()}
        return found | {
            f"/etcdserverpb.{path}": grpc.stream_stream_rpc_method_handler(work, request.FromString, _encode)
            for path, (request, work) in streams.items()
        }

    def _compact(self, request: pb.CompactionRequest) -> pb.CompactionResponse:
        self.data.compact(request.revision)
        return pb.CompactionResponse(header=self.data.header())

    def _grant(self, request: pb.LeaseGrantRequest) -> pb.LeaseGrantResponse:
        lease_id = request.ID or self._rng.getrandbits(62)
        self.data.grant(lease_id, max(2, request.TTL))
        return pb.LeaseGrantResponse(header=self.data.header(), ID=lease_id, TTL=max(2, request.TTL))

    def _revoke(self, request: pb.LeaseRevokeRequest) -> pb.LeaseRevokeResponse:
        self.data.end_lease(request.ID)
        return pb.LeaseRevokeResponse(header=self.data.header())

    async def _keep_alive(
        self, requests: AsyncIterator[pb.LeaseKeepAliveRequest], _context: Any
    ) -> AsyncIterator[pb.LeaseKeepAliveResponse]:
        async for request in requests:
            yield pb.LeaseKeepAliveResponse(header=self.data.header(), ID=request.ID, TTL=self.data.renew(request.ID))

    async def _watch(self, requests: AsyncIterator[pb.WatchRequest], _context: Any) -> AsyncIterator[pb.WatchResponse]:
        wake = asyncio.Event()
        watchers: dict[int, Watcher] = {}
        answers: list[pb.WatchResponse] = []

        async def listen() -> None:
            async for request in requests:
                answers.extend(self._asked(request, watchers))
                wake.set()

        self.data.listeners.append(wake.set)
        listening = asyncio.get_running_loop().create_task(listen())
        try:
            while True:
                wake.clear()
                while answers:
                    yield answers.pop(0)
                is_behind = False
                for watcher in list(watchers.values()):
                    for answer in self._feed(watcher, watchers):
                        yield answer
                    is_behind |= watcher.id in watchers and watcher.next <= self.data.revision
                if is_behind:
                    await asyncio.sleep(self._rng.uniform(0.001, 0.02))  # a watch that catches up is fed now and then
                    continue
                if not answers:
                    await wake.wait()
        finally:
            self.data.listeners.remove(wake.set)
            listening.cancel()

    def _asked(self, request: pb.WatchRequest, watchers: dict[int, Watcher]) -> list[pb.WatchResponse]:
        match request.WhichOneof("request_union"):
            case "create_request":
                create = request.create_request
                if create.start_revision and create.start_revision <= self.data.compacted:
                    refusal = pb.WatchResponse(header=self.data.header(), watch_id=create.watch_id, created=True)
                    gone = pb.WatchResponse(
                        header=self.data.header(), watch_id=create.watch_id, canceled=True, compact_revision=self.data.compacted
                    )
                    return [refusal, gone]
                start = create.start_revision or self.data.revision + 1
                watchers[create.watch_id] = Watcher(create.watch_id, create.key, create.range_end, start)
                return [pb.WatchResponse(header=self.data.header(), watch_id=create.watch_id, created=True)]
            case "cancel_request":
                watchers.pop(request.cancel_request.watch_id, None)
                return [pb.WatchResponse(header=self.data.header(), watch_id=request.cancel_request.watch_id, canceled=True)]
            case _:
                if all(watcher.next > self.data.revision for watcher in watchers.values()):
                    return [pb.WatchResponse(header=self.data.header(), watch_id=-1)]
                return []

    def _feed(self, watcher: Watcher, watchers: dict[int, Watcher]) -> Iterable[pb.WatchResponse]:
        """Yield some of what one watch has not seen. The header is of now, however far the events are behind."""
        if watcher.next <= self.data.compacted and watcher.next <= self.data.revision:
            del watchers[watcher.id]
            yield pb.WatchResponse(header=self.data.header(), watch_id=watcher.id, canceled=True, compact_revision=self.data.compacted)
            return
        sent = 0
        while watcher.next <= self.data.revision and sent < _CATCH_UP_EVENTS:
            events = [event for event in self.data.history.get(watcher.next, ()) if _is_in(event.kv.key, watcher)]
            watcher.next += 1
            sent += len(events)
            for first in range(0, len(events), _FRAGMENT_EVENTS):
                part = [kv_pb2.Event(type=event.type, kv=event.kv) for event in events[first : first + _FRAGMENT_EVENTS]]
                is_last = first + _FRAGMENT_EVENTS >= len(events)
                yield pb.WatchResponse(header=self.data.header(), watch_id=watcher.id, events=part, fragment=not is_last)


def _is_in(key: bytes, watcher: Watcher) -> bool:
    if not watcher.end:
        return key == watcher.key
    return key >= watcher.key and (watcher.end == b"\0" or key < watcher.end)


def _encode(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _handler(request: Any, work: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(work, request.FromString, _encode)


def _answering(data: Data, answer: Callable[[Any], Any]) -> Any:
    async def serve(request: Any, context: Any) -> Any:
        try:
            if isinstance(request, pb.TxnRequest):
                data.writer, data.asked = context.peer(), request.SerializeToString()
            return answer(request)
        except Refused as refused:
            await context.abort(refused.code, refused.details)
        finally:
            data.writer, data.asked = "", b""

    return serve
