"""Serial consoles: everybody reads the same log, which is whole and in order; what is typed goes into one stream a server.

virtlogd writes the log and caps it, moving LOG to LOG.0 and that to LOG.1. A reader follows by inotify, across such a move too.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.compute.driver import ConsoleInput
from agent.inotify import DirectoryWatch
from kumo.errors import NotFound

CHUNK_BYTES = 64 * 1024

_SUFFIX = ".log"


class ConsoleLogs:
    """The logs of all servers, in one directory that is watched with one descriptor."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._readers: dict[str, set[asyncio.Event]] = {}
        self._changes: DirectoryWatch | None = None

    def path(self, uid: str) -> Path:
        return self._directory / f"{uid}{_SUFFIX}"

    def remove(self, uid: str) -> None:
        """Remove all that is kept of one server's console."""
        for path in self._parts(uid):
            path.unlink(missing_ok=True)

    async def read(
        self, uid: str, tail_bytes: int = 0, *, follow: bool = False, until: asyncio.Future[None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the last `tail_bytes` (0: all that is kept), and with `follow` what is printed from then on, for ever or `until`.

        Raises NotFound if nothing was ever printed and nothing is awaited.
        """
        woken = asyncio.Event()
        if until is not None:
            until.add_done_callback(lambda _: woken.set())
        if follow:
            self._watch(uid, woken)
        reader = _Reader(self._parts(uid), self.path(uid), tail_bytes)
        try:
            if not follow and not reader.found:
                raise NotFound("CONSOLE_EMPTY", f"there is no console log of server {uid} on this host", uid=uid)
            while True:
                while data := reader.read():
                    yield data
                if not follow:
                    return
                await woken.wait()
                woken.clear()
                if until is not None and until.done():
                    return
        finally:
            reader.close()
            self._unwatch(uid, woken)

    def close(self) -> None:
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    def _parts(self, uid: str) -> list[Path]:
        """Return the files of one server's log, the oldest first."""
        path = self.path(uid)
        older: list[Path] = []
        while (part := path.with_name(f"{path.name}.{len(older)}")).exists():
            older.insert(0, part)
        return [*older, path] if path.exists() else older

    def _watch(self, uid: str, woken: asyncio.Event) -> None:
        if self._changes is None:
            self._changes = DirectoryWatch(self._directory, self._on_change)
        self._readers.setdefault(uid, set()).add(woken)

    def _unwatch(self, uid: str, woken: asyncio.Event) -> None:
        readers = self._readers.get(uid, set())
        readers.discard(woken)
        if not readers:
            self._readers.pop(uid, None)
        if not self._readers:
            self.close()

    def _on_change(self, name: str) -> None:
        for woken in self._readers.get(name.partition(_SUFFIX)[0], ()):
            woken.set()


class _Reader:
    """A place in a log that goes on in another file of the same name when the one it reads was moved away."""

    def __init__(self, parts: list[Path], path: Path, tail_bytes: int) -> None:
        self._path = path
        self._waiting = [part.open("rb", buffering=0) for part in parts]
        self.found = bool(self._waiting)
        if tail_bytes:
            self._skip(sum(os.fstat(file.fileno()).st_size for file in self._waiting) - tail_bytes)

    def read(self) -> bytes:
        """Return what comes next; empty when there is nothing more at present."""
        while True:
            if not self._waiting and not self._open_new():
                return b""
            data = self._waiting[0].read(CHUNK_BYTES)
            if data:
                return data
            if len(self._waiting) == 1:
                if not self._was_moved():
                    return b""
                # What was written between the reading and the move.
                if data := self._waiting[0].read(CHUNK_BYTES):
                    return data
            self._waiting.pop(0).close()

    def close(self) -> None:
        for file in self._waiting:
            file.close()

    def _skip(self, byte_count: int) -> None:
        for file in self._waiting:
            if byte_count <= 0:
                return
            size = os.fstat(file.fileno()).st_size
            file.seek(min(size, byte_count))
            byte_count -= size

    def _open_new(self) -> bool:
        try:
            self._waiting.append(self._path.open("rb", buffering=0))
        except FileNotFoundError:
            return False
        return True

    def _was_moved(self) -> bool:
        """True if the log is another file by now; nothing more is written to the one that is read, then."""
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(self._waiting[0].fileno())
        return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)


class ConsoleInputs:
    """The way into each console that somebody is attached to: opened with the first viewer, closed with the last."""

    def __init__(self, open_console: Callable[[str], Awaitable[ConsoleInput]]) -> None:
        self._open_console = open_console
        self._inputs: dict[str, ConsoleInput] = {}
        self._viewers: dict[str, int] = {}
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def attached(self, uid: str) -> AsyncIterator[None]:
        self._viewers[uid] = self._viewers.get(uid, 0) + 1
        try:
            yield
        finally:
            self._viewers[uid] -= 1
            if not self._viewers[uid]:
                del self._viewers[uid]
                if (console := self._inputs.pop(uid, None)) is not None:
                    await console.close()

    async def send(self, uid: str, data: bytes) -> None:
        """Type `data`; with none, have the way open. Raises NotFound or FailedPrecondition if the server does not run."""
        async with self._opening:
            console = self._inputs.get(uid)
            if console is None or console.closed:
                console = self._inputs[uid] = await self._open_console(uid)
        if data:
            await console.send(data)
