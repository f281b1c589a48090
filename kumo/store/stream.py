"""Carries all watches of a process on one stream of etcd and opens it again, each watch where it stopped, after a cut.

A watch is resumed after the last event it has seen, never at the revision in a header, which may be far ahead of the events
of a catch-up. A revision is delivered whole. Silence is answered by asking for progress, and then by leaving the endpoint.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from kumo.clock import Clock
from kumo.log import get_logger
from kumo.store.endpoints import Endpoint, Endpoints
from kumo.store.errors import Compacted, StoreReplaced, WatchRefused, is_endpoint_fault
from kumo.store.etcd import kv_pb2, rpc_pb2
from kumo.store.interface import Batch
from kumo.store.metrics import STREAM_RESTARTS

log = get_logger(__name__)

_PATH = "/etcdserverpb.Watch/Watch"
_QUEUED_BATCHES = 256
_FIRST_BACKOFF_S, _MOST_BACKOFF_S = 0.02, 1.0
_PROGRESS_ANSWER = -1
# etcd answers only once all watches of the stream are up to date, and drops the question before.
_PROGRESS_LOST_S = 0.05

_Call = Any  # grpc.aio's stream call: types-grpcio has no name for it that exists at run time
_Item = Batch | Exception


class ResumingWatch:
    """One watch of a key range; what interface.Watch promises."""

    def __init__(self, stream: "WatchStream", watch_id: int, key_range: tuple[bytes, bytes], start_revision: int) -> None:
        self.id = watch_id
        self.next_revision = start_revision
        self.is_created = False
        self._seen_revision = start_revision - 1
        self._parts: list[kv_pb2.Event] = []
        self._stream = stream
        self._key, self._range_end = key_range
        self._queue: asyncio.Queue[_Item] = asyncio.Queue(_QUEUED_BATCHES)

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def ask_progress(self) -> None:
        self._stream.ask_progress()

    def request(self) -> rpc_pb2.WatchRequest:
        """Ask for the watch on a new stream, from where it stopped on the one before."""
        self.is_created, self._parts = False, []
        self._seen_revision = self.next_revision - 1
        create = rpc_pb2.WatchCreateRequest(
            key=self._key, range_end=self._range_end, start_revision=self.next_revision, watch_id=self.id, fragment=True
        )
        return rpc_pb2.WatchRequest(create_request=create)

    async def take(self, events: list[kv_pb2.Event], fragment: bool) -> None:
        """Deliver events once all fragments are here, without those seen before a cut."""
        self._parts += events
        if fragment:
            return
        fresh = [event for event in self._parts if event.kv.mod_revision > self._seen_revision]
        self._parts = []
        if fresh:
            revision = self._seen_revision = fresh[-1].kv.mod_revision
            self.next_revision = max(self.next_revision, revision + 1)
            await self._queue.put(Batch(revision, fresh))

    async def take_progress(self, revision: int) -> None:
        if self.is_created and not self._parts and revision >= self.next_revision:
            self.next_revision = revision + 1
            await self._queue.put(Batch(revision, ()))

    async def fail(self, error: Exception) -> None:
        await self._queue.put(error)

    def release(self) -> None:
        """Free whoever waits to deliver here: nobody will read any more."""
        while not self._queue.empty():
            self._queue.get_nowait()


class WatchStream:
    """The stream. run() has to run as long as anybody watches."""

    def __init__(self, endpoints: Endpoints, *, clock: Clock, rng: random.Random, silence_s: float) -> None:
        self._endpoints, self._clock, self._rng, self._silence_s = endpoints, clock, rng, silence_s
        self._watches: dict[int, ResumingWatch] = {}
        self._pending: deque[ResumingWatch] = deque()
        self._outbox: asyncio.Queue[rpc_pb2.WatchRequest] | None = None
        self._wanted = asyncio.Event()
        self._asked_at, self._is_asked_again = -math.inf, False
        self._last_id = 0
        self._heard_at = 0.0
        self._answered_at = clock.monotonic()
        self._cluster_id = 0
        self.believes_progress = True

    @asynccontextmanager
    async def watch(self, key: bytes, range_end: bytes, start_revision: int) -> AsyncIterator[ResumingWatch]:
        """Watch from `start_revision`, which is never 0: "from now" would lose events to a cut before the first answer."""
        if start_revision < 1:
            raise ValueError("a watch starts at a revision")
        if not self._watches:
            self._answered_at = self._clock.monotonic()  # it had nothing to say
        self._last_id += 1
        watch = ResumingWatch(self, self._last_id, (key, range_end), start_revision)
        self._watches[watch.id] = watch
        self._wanted.set()
        if self._outbox is not None:
            self._create(watch)
        try:
            yield watch
        finally:
            self._remove(watch)
            watch.release()

    def ask_progress(self) -> None:
        """Ask once at a time; who asks while an answer is awaited is answered by the next one."""
        if self._outbox is None or self._outbox.full():
            return
        self._is_asked_again = self._clock.monotonic() - self._asked_at < _PROGRESS_LOST_S
        if not self._is_asked_again:
            self._asked_at = self._clock.monotonic()
            self._outbox.put_nowait(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))

    def silent_s(self) -> float:
        """How long ago anything came; progress is asked for when nothing else does, so that this is small while etcd answers."""
        return self._clock.monotonic() - self._answered_at if self._watches else 0.0

    async def run(self) -> None:
        """Keep a stream open while there are watches; never returns."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            if not self._watches:
                self._wanted.clear()
                await self._wanted.wait()
            opened_at = self._clock.monotonic()
            endpoint = self._endpoints.current()
            await self._serve(endpoint)
            STREAM_RESTARTS.inc()
            if self._answered_at > opened_at:
                backoff_s = _FIRST_BACKOFF_S
            await self._clock.sleep(backoff_s * self._rng.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, _MOST_BACKOFF_S)

    def _create(self, watch: ResumingWatch) -> None:
        assert self._outbox is not None
        self._pending.append(watch)
        self._outbox.put_nowait(watch.request())

    def _remove(self, watch: ResumingWatch) -> None:
        if self._watches.pop(watch.id, None) is not None and self._outbox is not None:
            cancel = rpc_pb2.WatchCancelRequest(watch_id=watch.id)
            self._outbox.put_nowait(rpc_pb2.WatchRequest(cancel_request=cancel))

    async def _serve(self, endpoint: Endpoint) -> None:
        """Open the stream at `endpoint` and read it until it breaks."""
        open_stream = endpoint.channel.stream_stream(
            _PATH, request_serializer=rpc_pb2.WatchRequest.SerializeToString, response_deserializer=rpc_pb2.WatchResponse.FromString
        )
        # Bounded by the number of watches and by what progress requests are let in.
        self._outbox = asyncio.Queue(10_000)
        self._asked_at, self._is_asked_again = -math.inf, False
        self._pending = deque()
        for watch in list(self._watches.values()):
            self._create(watch)
        call = open_stream(metadata=(("hasleader", "true"),))
        self._heard_at = self._clock.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                works = (_write(call, self._outbox), self._read(call, endpoint), self._until_silent(endpoint))
                running = [tasks.create_task(work) for work in works]
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in running:
                    task.cancel()
        finally:
            self._outbox = None
            call.cancel()

    async def _read(self, call: _Call, endpoint: Endpoint) -> None:
        """Read until the stream ends. One task reads one answer after another: each detour would let answers lag while the loop is busy."""
        while True:
            answer = await _read_one(call)
            if not isinstance(answer, rpc_pb2.WatchResponse):
                if answer is not None and is_endpoint_fault(*answer):
                    self._endpoints.fault(endpoint, answer[1])
                return
            self._heard_at = self._answered_at = self._clock.monotonic()
            await self._dispatch(answer)

    async def _until_silent(self, endpoint: Endpoint) -> None:
        """Ask for progress when nothing comes; return when nothing comes all the same, or when nothing is watched."""
        while True:
            await self._clock.sleep(self._silence_s / 2)
            silent_s = self._clock.monotonic() - self._heard_at
            if silent_s < self._silence_s / 2:
                continue
            if not self._watches:
                # etcd answers for progress only where something is watched: this silence says nothing.
                return
            if silent_s > self._silence_s + endpoint.allowance_s:
                endpoint.silent_for(silent_s)
                self._endpoints.fault(endpoint, "the watch stream is silent")
                return
            self.ask_progress()

    async def _dispatch(self, answer: rpc_pb2.WatchResponse) -> None:
        if await self._is_other_cluster(answer.header.cluster_id):
            return
        if answer.created:
            # Answers to creates come in order. A refusal carries the id -1, which progress answers use too.
            watch = self._pending.popleft()
            if answer.canceled:
                await self._ended(watch, answer)
            else:
                watch.is_created = True
            return
        if answer.canceled:
            if (ended := self._watches.get(answer.watch_id)) is not None:
                await self._ended(ended, answer)
            return
        if answer.watch_id == _PROGRESS_ANSWER:
            self._asked_at = -math.inf
            if self._is_asked_again:
                self.ask_progress()
            if self.believes_progress:
                for watch in list(self._watches.values()):
                    await watch.take_progress(answer.header.revision)
            return
        if (known := self._watches.get(answer.watch_id)) is not None:
            await known.take(list(answer.events), answer.fragment)

    async def _is_other_cluster(self, cluster_id: int) -> bool:
        self._cluster_id = self._cluster_id or cluster_id
        if cluster_id in (0, self._cluster_id):
            return False
        for watch in list(self._watches.values()):
            self._watches.pop(watch.id, None)
            await watch.fail(StoreReplaced(self._cluster_id, cluster_id))
        return True

    async def _ended(self, watch: ResumingWatch, answer: rpc_pb2.WatchResponse) -> None:
        self._watches.pop(watch.id, None)
        if answer.compact_revision:
            await watch.fail(Compacted(answer.compact_revision))
        else:
            await watch.fail(WatchRefused(answer.cancel_reason))


async def _write(call: _Call, outbox: asyncio.Queue[rpc_pb2.WatchRequest]) -> None:
    """Feed the stream. Not an iterator handed to grpc.aio: that one's task would stay behind when the call dies."""
    try:
        while True:
            await call.write(await outbox.get())
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return


async def _read_one(call: _Call) -> rpc_pb2.WatchResponse | tuple[grpc.StatusCode, str] | None:
    """Return the next answer, why the stream broke, or None at its end."""
    try:
        answer = await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    except asyncio.InvalidStateError:
        return None
    return answer if isinstance(answer, rpc_pb2.WatchResponse) else None
