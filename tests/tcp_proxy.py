"""A TCP proxy on the test's own loop that cuts, stalls or swallows what passes, at the worst moment."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

_CHUNK = 65536
_MOST_UNDER_WAY = 1024


class Proxy:
    """client -> 127.0.0.1:port -> 127.0.0.1:target. `bytes_down` counts what went to the client since the last cut_after()."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.bytes_down = 0
        self.cuts = 0
        self._is_up = True
        self._limit: int | None = None
        self._answers = asyncio.Event()
        self._answers.set()
        self._writers: set[asyncio.StreamWriter] = set()
        # How long each byte is under way, in each direction.
        self.delay_s = 0.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection and refuse new ones until restore()."""
        self._is_up = False
        self.break_all()

    def restore(self) -> None:
        self._is_up = True
        self._answers.set()

    def break_all(self) -> None:
        """Break every connection; new ones may come at once."""
        self.cuts += 1
        for writer in list(self._writers):
            writer.transport.abort()

    def cut_after(self, byte_count: int) -> None:
        """Break every connection once so many bytes more have gone to clients."""
        self.bytes_down, self._limit = 0, byte_count

    def hold_answers(self) -> None:
        """Let requests through and keep the answers, until restore(), or for ever if the connection is broken first."""
        self._answers.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if not self._is_up:
                return
            with suppress(OSError):
                from_server, upstream = await asyncio.open_connection("127.0.0.1", self.target)
                self._writers.add(upstream)
                async with asyncio.TaskGroup() as tasks:
                    pumps = [
                        tasks.create_task(self._pump(reader, upstream, is_down=False)),
                        tasks.create_task(self._pump(from_server, writer, is_down=True)),
                    ]
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                    for pump in pumps:
                        pump.cancel()
        finally:
            for one in (writer, upstream):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_down: bool) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_UNDER_WAY)
        async with asyncio.TaskGroup() as tasks:
            delivering = tasks.create_task(self._deliver(under_way, writer, is_down=is_down))
            with suppress(OSError):
                while data := await reader.read(_CHUNK):
                    await under_way.put((asyncio.get_running_loop().time() + self.delay_s, data))
            await under_way.put((asyncio.get_running_loop().time() + self.delay_s, b""))
            await delivering

    async def _deliver(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, *, is_down: bool) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while True:
                due, data = await under_way.get()
                if not data:
                    return
                await asyncio.sleep(max(0.0, due - loop.time()))
                if is_down:
                    await self._answers.wait()
                    self.bytes_down += len(data)
                writer.write(data)
                await writer.drain()
                if is_down and self._limit is not None and self.bytes_down >= self._limit:
                    self._limit = None
                    self.break_all()


@asynccontextmanager
async def proxy_to(target: int) -> AsyncGenerator[Proxy, None]:
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.break_all()
