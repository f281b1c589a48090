"""A hypervisor without guests: it keeps what it was told in a file, across restarts, and behaves towards the agent as the real one does.

Its guests are what tests boot in the real one: they say that they are ready, echo what is typed, and switch themselves off when
asked to or when an X is typed.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.compute import xml
from agent.compute.driver import ConsoleInput, Definition, DiskUsage, Domain, Process, Usage
from kumo.errors import NotFound

# Above what the kernel gives out, so that no process of the host is ever taken for a guest's.
_FIRST_PID = 1 << 23
READY, OFF = b"\r\nstub ready\r\n", b"stub off\r\n"


@dataclass(frozen=True)
class _Server:
    """What is kept of one server; `pid` 0: it does not run."""

    generation: int
    epoch: tuple[int, int]
    digest: str
    virt_type: str
    pid: int = 0
    start_ticks: int = 0
    paused: bool = False


class FakeHypervisor:
    """Implements driver.Hypervisor. Guests that are `deaf` do not notice their power button."""

    def __init__(self, state: Path, boot_id: str, console_directory: Path, *, deaf: bool = False) -> None:
        """Guests of another boot than `boot_id` have ended."""
        self._file = state
        self._boot_id = boot_id
        self._console_directory = console_directory
        self._deaf = deaf
        self._on_change: Callable[[str | None], None] = lambda _: None
        self._next_pid = _FIRST_PID
        self._servers: dict[str, _Server] = {}
        self._load()

    @property
    def problem(self) -> str:
        """Always empty: it is never away."""
        return ""

    async def versions(self) -> dict[str, str]:
        return {"hypervisor": "fake"}

    def digest_of(self, definition: Definition) -> str:
        return xml.render(definition, self._log(definition.uid))[1]

    async def list_uids(self) -> list[str]:
        return list(self._servers)

    async def forbid_autostart(self) -> list[str]:
        return []

    async def look(self, uid: str) -> Domain | None:
        server = self._servers.get(uid)
        if server is None:
            return None
        seen = Domain(uid, server.generation, server.epoch, server.digest, virt_type=server.virt_type)
        if not server.pid:
            return seen
        process = Process(self._boot_id, server.pid, server.start_ticks)
        return replace(seen, process=process, start_time=datetime.fromtimestamp(server.start_ticks / 1000, UTC), paused=server.paused)

    async def usage(self) -> list[Usage]:
        """Return what a guest that does next to nothing takes: a hundredth of a CPU."""
        now = datetime.now(UTC).timestamp()
        idle = DiskUsage(read_bytes=512, read_count=1, written_bytes=0, write_count=0)
        return [
            Usage(uid, max(0.0, now - server.start_ticks / 1000) / 100, 16 << 20, (idle,))
            for uid, server in self._servers.items()
            if server.pid
        ]

    async def define(self, definition: Definition) -> None:
        before = self._servers.get(definition.uid)
        defined = _Server(definition.generation, definition.epoch, self.digest_of(definition), definition.virt_type)
        if before is not None:
            defined = replace(defined, pid=before.pid, start_ticks=before.start_ticks, paused=before.paused)
        self._keep(definition.uid, defined)

    async def start(self, definition: Definition) -> None:
        server = self._lookup(definition.uid)
        if not server.pid:
            ticks = int(datetime.now(UTC).timestamp() * 1000)
            self._next_pid += 1
            self._keep(definition.uid, replace(server, pid=self._next_pid, start_ticks=ticks, paused=True))

    async def resume(self, uid: str) -> None:
        server = self._lookup(uid)
        if server.pid and server.paused:
            self._keep(uid, replace(server, paused=False))
            self._print(uid, READY)

    async def ask_to_stop(self, uid: str) -> None:
        if self._lookup(uid).pid and not self._deaf:
            self.end_guest(uid)

    async def cut_power(self, uid: str) -> None:
        server = self._servers.get(uid)
        if server is not None and server.pid:
            self._keep(uid, replace(server, pid=0))

    async def undefine(self, uid: str) -> None:
        if self._servers.pop(uid, None) is not None:
            self._save()
            self._on_change(uid)

    async def open_console(self, uid: str) -> ConsoleInput:
        server = self._lookup(uid)
        if not server.pid:
            raise NotFound("SERVER_OFF", f"server {uid} does not run", uid=uid)
        return _FakeConsole(self, uid, server.pid)

    async def run(self, on_change: Callable[[str | None], None]) -> None:
        self._on_change = on_change
        on_change(None)
        await asyncio.Event().wait()

    def end_guest(self, uid: str) -> None:
        """Have the guest switch itself off."""
        self._print(uid, OFF)
        self._keep(uid, replace(self._lookup(uid), pid=0))

    def type_into(self, uid: str, pid: int, data: bytes) -> bool:
        """Have the guest read `data`; False if that process runs no more."""
        server = self._servers.get(uid)
        if server is None or server.pid != pid:
            return False
        if b"X" in data:
            self.end_guest(uid)
        else:
            self._print(uid, data)
        return True

    def _lookup(self, uid: str) -> _Server:
        if uid not in self._servers:
            raise NotFound("SERVER_NOT_DEFINED", f"the hypervisor knows no server {uid}", uid=uid)
        return self._servers[uid]

    def _log(self, uid: str) -> Path:
        return self._console_directory / f"{uid}.log"

    def _print(self, uid: str, data: bytes) -> None:
        with self._log(uid).open("ab") as log:
            log.write(data)

    def _keep(self, uid: str, server: _Server) -> None:
        self._servers[uid] = server
        self._save()
        self._on_change(uid)

    def _load(self) -> None:
        try:
            kept = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return
        self._next_pid = kept["next_pid"]
        same_boot = kept["boot_id"] == self._boot_id
        for uid, fields in kept["servers"].items():
            server = _Server(**{**fields, "epoch": tuple(fields["epoch"])})
            self._servers[uid] = server if same_boot else replace(server, pid=0)

    def _save(self) -> None:
        kept: dict[str, Any] = {
            "boot_id": self._boot_id,
            "next_pid": self._next_pid,
            "servers": {uid: asdict(server) for uid, server in self._servers.items()},
        }
        fresh = self._file.with_name(f".{self._file.name}.new")
        fresh.write_text(json.dumps(kept))
        fresh.rename(self._file)


class _FakeConsole:
    """The way into the console of one process."""

    def __init__(self, hypervisor: FakeHypervisor, uid: str, pid: int) -> None:
        self._hypervisor, self._uid, self._pid = hypervisor, uid, pid
        self.closed = False

    async def send(self, data: bytes) -> None:
        if not self._hypervisor.type_into(self._uid, self._pid, data):
            self.closed = True

    async def close(self) -> None:
        self.closed = True
