"""Keeps one channel for each etcd endpoint, stays with one as long as it answers, and leaves it for a while when it does not.

Not one channel with round robin: that goes on asking a frozen member every second time.
"""

import random
from collections.abc import Sequence

import grpc
import grpc.aio

from kumo.clock import Clock
from kumo.log import get_logger
from kumo.store.metrics import ENDPOINT_FAULTS
from kumo.tls import TlsFiles

log = get_logger(__name__)

_QUARANTINE_S = 5.0
# Whoever is further away than this is away.
_LONGEST_WAY_S = 3.0
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),  # without it a frozen peer is noticed after a minute
    ("grpc.keepalive_permit_without_calls", 0),  # etcd answers idle pings by closing the connection
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 7_000),  # this is how long one attempt to connect may take: three times the way there and back
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),  # a write must never be sent twice behind our back
)


class Endpoint:
    """One address of etcd and the channel to it."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address, self.channel = address, channel
        self.shunned_until = 0.0
        # What an answer takes at present, as answers have shown.
        self.round_trip_s = 0.0
        self._waited_in_vain_s = 0.0

    def answered(self, took_s: float) -> None:
        """Learn from an answer. One that is slow may have been a slow request: only several make the way long."""
        slower_s = max(0.0, took_s - self.round_trip_s)
        is_first_after_silence = self._waited_in_vain_s > 0
        self.round_trip_s = took_s if not slower_s or is_first_after_silence else self.round_trip_s + slower_s / 2
        self.round_trip_s = min(self.round_trip_s, _LONGEST_WAY_S)
        self._waited_in_vain_s = 0.0

    def silent_for(self, waited_s: float) -> None:
        """Learn that no answer came in that time: the next one may be waited for longer."""
        self._waited_in_vain_s = min(max(self._waited_in_vain_s, waited_s), _LONGEST_WAY_S)

    @property
    def allowance_s(self) -> float:
        """How much longer than usual one answer is waited for."""
        return 2 * max(self.round_trip_s, self._waited_in_vain_s)


class Endpoints:
    """The pool. `current()` is sticky; `fault()` makes the next call look elsewhere."""

    def __init__(self, addresses: Sequence[str], tls: TlsFiles | None, *, clock: Clock, rng: random.Random, server_name: str = "") -> None:
        """`server_name` is what the servers' certificates say, where the addresses do not."""
        options = [*_OPTIONS, *([("grpc.ssl_target_name_override", server_name)] if server_name else [])]
        credentials = tls.read().for_channel() if tls else None
        self._all = [
            Endpoint(a, grpc.aio.secure_channel(a, credentials, options) if credentials else grpc.aio.insecure_channel(a, options))
            for a in addresses
        ]
        self._clock, self._rng = clock, rng
        self._current = rng.choice(self._all)

    def current(self) -> Endpoint:
        if self._current.shunned_until > self._clock.monotonic():
            self._current = min(self._all, key=lambda endpoint: (endpoint.shunned_until, self._rng.random()))
        return self._current

    def fault(self, endpoint: Endpoint, why: str) -> None:
        now = self._clock.monotonic()
        if endpoint.shunned_until <= now:
            ENDPOINT_FAULTS.inc()
            log.info("etcd endpoint left", endpoint=endpoint.address, why=why)
        endpoint.shunned_until = now + _QUARANTINE_S

    def all(self) -> Sequence[Endpoint]:
        return self._all

    async def close(self) -> None:
        for endpoint in self._all:
            await endpoint.channel.close()
