"""Keeps one lease of etcd alive and says, no later than etcd can know it, that it is lost."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from kumo.clock import Clock
from kumo.store.endpoints import Endpoint, Endpoints
from kumo.store.etcd import rpc_pb2

_PATH = "/etcdserverpb.Lease/LeaseKeepAlive"


class KeptLease:
    """What interface.Lease promises. Its deadline counts from the moment a keepalive was sent, on the monotonic clock."""

    def __init__(self, endpoints: Endpoints, lease_id: int, ttl_s: int, *, clock: Clock, granted_after: float) -> None:
        """`granted_after` is when the grant was sent."""
        self.id = lease_id
        self.lost = asyncio.Event()
        self._endpoints, self._clock, self._ttl_s = endpoints, clock, ttl_s
        self._deadline = granted_after + ttl_s
        self._revoked = asyncio.Event()

    def is_held(self) -> bool:
        return not self.lost.is_set() and self._clock.monotonic() < self._deadline

    def end(self) -> None:
        """Stop keeping it alive."""
        self._revoked.set()
        self.lost.set()

    async def run(self) -> None:
        """Keep it alive until it is lost or ended."""
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(self._keep())
                ended = tasks.create_task(self._revoked.wait())
                await asyncio.wait((keeping, ended), return_when=asyncio.FIRST_COMPLETED)
                keeping.cancel()
                ended.cancel()
        finally:
            self.lost.set()

    async def _keep(self) -> None:
        while self._clock.monotonic() < self._deadline:
            endpoint = self._endpoints.current()
            open_stream = endpoint.channel.stream_stream(
                _PATH,
                request_serializer=rpc_pb2.LeaseKeepAliveRequest.SerializeToString,
                response_deserializer=rpc_pb2.LeaseKeepAliveResponse.FromString,
            )
            call = open_stream(metadata=(("hasleader", "true"),))
            try:
                if not await self._renew(call, endpoint):
                    return
            finally:
                call.cancel()
            await self._clock.sleep(0.05)

    async def _renew(self, call: Any, endpoint: Endpoint) -> bool:  # Any: see stream.py
        """Keep the lease on one stream; False when etcd says that it is gone, True when another stream is needed.

        Keepalives are sent without waiting for answers: on a long way several are under way, and answers come in their order.
        """
        sent: deque[float] = deque()
        async with asyncio.TaskGroup() as tasks:
            sending, reading = tasks.create_task(self._send(call, sent)), tasks.create_task(self._read(call, sent, endpoint))
            await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
            is_known = reading.done()
            sending.cancel()
            reading.cancel()
        return reading.result() if is_known else True

    async def _send(self, call: Any, sent: deque[float]) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader learns why
            while True:
                sent.append(self._clock.monotonic())
                await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=self.id))
                await self._clock.sleep(self._ttl_s / 3)

    async def _read(self, call: Any, sent: deque[float], endpoint: Endpoint) -> bool:
        while True:
            left_s = self._deadline - self._clock.monotonic()
            # Long enough for the next keepalive to be sent, and for its answer.
            patience_s = 2 * self._ttl_s / 3 + endpoint.allowance_s
            try:
                async with asyncio.timeout(max(0.01, min(patience_s, left_s))):
                    answer = await call.read()
            except TimeoutError:
                self._endpoints.fault(endpoint, "no answer to a keepalive")
                return True
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                self._endpoints.fault(endpoint, f"keepalive: {error!r:.200}")
                return True
            if not isinstance(answer, rpc_pb2.LeaseKeepAliveResponse):
                return True
            if answer.TTL <= 0:
                return False
            sent_at = sent.popleft()
            self._deadline = sent_at + answer.TTL
            endpoint.answered(self._clock.monotonic() - sent_at)
