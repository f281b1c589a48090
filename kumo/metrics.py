"""Serves /metrics of a process and measures the lag of its event loop; what is counted is declared where it happens.

The text is made on a thread and kept for a few seconds: five thousand series cost 23 ms, too long for the loop.
"""

import asyncio
import platform
from asyncio import StreamReader, StreamWriter, to_thread
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from kumo import VERSION
from kumo.clock import Clock, SystemClock
from kumo.log import get_logger

log = get_logger(__name__)

# The moments at which series began would double their number, and promtool counts them as badly named.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it untyped

LOOP_LAG = Histogram(
    "kumo_loop_lag_seconds",
    "How much later than asked the event loop woke a sleeping task.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
BUILD_INFO = Gauge("kumo_build_info", "Always 1; the labels say what runs.", ["process", "version", "python"])

_LAG_INTERVAL_S = 0.5
_REQUEST_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 32


# Makes the text of one page anew.
Page = Callable[[], Awaitable[bytes]]


class MetricsServer:
    """A listener that answers GET /metrics, and GET of further pages, and nothing else."""

    def __init__(
        self,
        process: str,
        host: str,
        port: int,
        *,
        clock: Clock | None = None,
        max_age_s: float = 5.0,
        registry: CollectorRegistry = REGISTRY,
        pages: Mapping[str, Page] = MappingProxyType({}),
    ) -> None:
        """`port` 0 lets the kernel choose; `max_age_s` is how long one exposition may be handed out again; `pages` go by their paths."""
        self._process, self._host, self._port = process, host, port
        self._clock = clock or SystemClock()
        self._max_age_s = max_age_s
        self._registry = registry
        self._pages = {"/metrics": self._generate, **pages}
        # When a page was made, and its text.
        self._made: dict[str, tuple[float, bytes]] = {}
        self._making = asyncio.Lock()
        self._connections = 0

    @property
    def port(self) -> int:
        """The port in use, once run() has bound it."""
        return self._port

    async def run(self, started: asyncio.Event | None = None) -> None:
        """Serve until cancelled; sets `started` once it listens."""
        BUILD_INFO.labels(self._process, VERSION, platform.python_version()).set(1)
        server = await asyncio.start_server(self._serve, self._host, self._port, limit=8192)
        self._port = server.sockets[0].getsockname()[1]
        if started is not None:
            started.set()
        async with server:
            await measure_lag(self._clock)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections > _MAX_CONNECTIONS:
                return
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that went away or never spoke; it will come again
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("ascii", "replace")
        if method not in (b"GET", b"HEAD") or path not in self._pages:
            return _response("404 Not Found", "text/plain", f"only GET {' and '.join(self._pages)} is here\n".encode())
        body = await self.exposition(path)
        return _response("200 OK", CONTENT_TYPE_LATEST, body if method == b"GET" else b"")

    async def exposition(self, path: str = "/metrics") -> bytes:
        """Return the text of one page, at most `max_age_s` old."""
        async with self._making:
            now = self._clock.monotonic()
            if path not in self._made or now - self._made[path][0] >= self._max_age_s:
                self._made[path] = (now, await self._pages[path]())
            return self._made[path][1]

    async def _generate(self) -> bytes:
        return await to_thread(generate_latest, self._registry)


def _response(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


async def measure_lag(clock: Clock, interval_s: float = _LAG_INTERVAL_S) -> None:
    """Observe for ever how late the loop wakes a task."""
    while True:
        asked = clock.monotonic() + interval_s
        await clock.sleep(interval_s)
        LOOP_LAG.observe(max(0.0, clock.monotonic() - asked))
