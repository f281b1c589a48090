"""Puts time, chance and the network of a simulation in place of the machine's, at the libraries that Kumo asks for them.

Nothing of Kumo is replaced but the jail for images, which is a process of the kernel's, and how the fake hypervisor reads the clock.
For a process that ends with the run: nothing is put back.
"""

import os
import random
import secrets
import time
import uuid
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import grpc
import uuid_utils

import agent.compute.fake
import agent.main
import kumo.clock
from tests.simulation.loop import VirtualLoop
from tests.simulation.wire import Wire

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_PLAIN_RANDOM = random.Random


def install(loop: VirtualLoop, wire: Wire, rng: random.Random) -> None:
    """Have everything in this process be of one simulation from now on."""
    _install_time(loop)
    _install_chance(loop, rng)
    grpc.aio.secure_channel = grpc.aio.insecure_channel = wire.channel  # type: ignore[assignment]
    grpc.aio.server = wire.server  # type: ignore[assignment]
    grpc.dynamic_ssl_server_credentials = grpc.ssl_channel_credentials = lambda *_, **__: None  # type: ignore[assignment]
    setattr(agent.main, "ImageChecks", _NoJail)  # noqa: B010  # a class of ours in place of one of the agent's
    os.fsync = lambda _: None  # type: ignore[assignment]  # what is written survives: it is the process that dies here


def _install_time(loop: VirtualLoop) -> None:
    # Not from 0: a process is never as young as its machine.
    time.monotonic = time.perf_counter = lambda: 1000.0 + loop.time()
    time.time = lambda: (EPOCH + timedelta(seconds=loop.time())).timestamp()

    class VirtualDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return EPOCH + timedelta(seconds=loop.time())

    kumo.clock.datetime = agent.compute.fake.datetime = VirtualDatetime  # type: ignore[attr-defined]


def _install_chance(loop: VirtualLoop, rng: random.Random) -> None:
    class SeededRandom(_PLAIN_RANDOM):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(rng.getrandbits(64) if seed is None else seed)

    random.Random = SeededRandom  # type: ignore[misc,assignment]
    secrets.token_bytes = lambda count=32: rng.randbytes(count or 32)  # type: ignore[assignment]
    secrets.token_hex = lambda count=32: rng.randbytes(count or 32).hex()  # type: ignore[assignment]

    def uuid7() -> uuid.UUID:
        milliseconds = int((EPOCH.timestamp() + loop.time()) * 1000)
        value = (milliseconds << 80) | (7 << 76) | (rng.getrandbits(12) << 64) | (2 << 62) | rng.getrandbits(62)
        return uuid.UUID(int=value)

    uuid_utils.uuid7 = uuid7  # type: ignore[assignment]


class _NoJail:
    """Finds every raw image good."""

    def __init__(self, *_: object) -> None:
        pass

    async def inspect(self, path: Path, _file_format: str) -> int:
        return path.stat().st_size  # noqa: ASYNC240  # nothing blocks here
