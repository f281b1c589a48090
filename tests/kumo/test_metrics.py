"""The metrics endpoint, scraped as Prometheus would, and its names judged by promtool."""

import asyncio
import shutil
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter

# Imported for what they count: their names are judged below.
import kumo.loop
import kumo.rpc.interceptor
import kumo.tls
from kumo.metrics import MetricsServer, measure_lag
from tests.virtual_clock import VirtualClock

COUNTING = (kumo.loop, kumo.rpc.interceptor, kumo.tls)


@asynccontextmanager
async def running(server: MetricsServer) -> AsyncIterator[int]:
    started = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.run(started))
        try:
            await started.wait()
            yield server.port
        finally:
            task.cancel()


async def fetch(port: int, request: bytes) -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


async def test_a_scrape_gets_every_series() -> None:
    async with running(MetricsServer("kumo-test", "127.0.0.1", 0)) as port:
        answer = await fetch(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK") and b"text/plain" in head
    for name in (b"kumo_build_info{", b"kumo_loop_lag_seconds_bucket", b"process_resident_memory_bytes", b"kumo_rpc_requests_total"):
        assert name in body


@pytest.mark.parametrize("request_head", [b"GET / HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n"])
async def test_nothing_else_is_there(request_head: bytes) -> None:
    async with running(MetricsServer("kumo-test", "127.0.0.1", 0)) as port:
        assert (await fetch(port, request_head)).startswith(b"HTTP/1.1 404")


async def test_an_endless_request_is_cut() -> None:
    async with running(MetricsServer("kumo-test", "127.0.0.1", 0)) as port:
        assert await fetch(port, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000) == b""


async def test_the_text_is_made_at_most_once_in_its_time() -> None:
    registry, clock = CollectorRegistry(), VirtualClock()
    counter = Counter("kumo_example_total", "An example.", registry=registry)
    server = MetricsServer("kumo-test", "127.0.0.1", 0, clock=clock, registry=registry, max_age_s=5)
    first = await server.exposition()
    counter.inc()
    assert await server.exposition() == first
    await clock.advance(5)
    assert b"kumo_example_total 1.0" in await server.exposition()


async def test_lag_is_how_much_later_than_asked_a_task_wakes() -> None:
    class Late(VirtualClock):
        async def sleep(self, duration_s: float) -> None:
            await super().sleep(duration_s + 0.25)

    def seen() -> tuple[float, float]:
        values = [REGISTRY.get_sample_value(f"kumo_loop_lag_seconds_{part}") for part in ("sum", "count")]
        return values[0] or 0.0, values[1] or 0.0

    clock, before = Late(), seen()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(measure_lag(clock, interval_s=1.0))
        await clock.advance(12.6)
        task.cancel()
    after = seen()
    assert after[1] - before[1] == 10
    assert after[0] - before[0] == pytest.approx(2.5)


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert project["version"] == kumo.VERSION


async def test_promtool_finds_nothing_to_complain_about() -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool comes with the Debian package prometheus: make setup"
    async with running(MetricsServer("kumo-test", "127.0.0.1", 0)) as port:
        answer = await fetch(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(promtool, "check", "metrics", stdin=pipe, stdout=pipe, stderr=pipe)
    out, complaints = await process.communicate(answer.partition(b"\r\n\r\n")[2])
    assert (process.returncode, out, complaints) == (0, b"", b"")
