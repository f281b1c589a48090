"""The two hypervisors that every test of drivers meets: libvirt with QEMU, and its twin."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.compute.console import ConsoleLogs
from agent.compute.driver import Definition, Disk, Domain, FileSource, Hypervisor
from agent.compute.fake import FakeHypervisor
from agent.compute.libvirt import LibvirtHypervisor
from agent.compute.processes import Processes, read_boot_id
from kumo.errors import Unavailable
from kumo.ids import new_uid
from tests.libvirt_host import LibvirtHost, running_libvirt

Condition = Callable[[], Awaitable[bool]]


@pytest.fixture(scope="session")
def libvirt_host() -> Iterator[LibvirtHost]:
    with running_libvirt() as host:
        yield host


@dataclass
class Bench:
    """A hypervisor under test, and hands to do to its guests what a test needs."""

    hypervisor: Hypervisor
    processes: Processes
    consoles: Path
    host: LibvirtHost | None
    disks: Path
    changes: list[str | None] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    listeners: list[Callable[[str | None], None]] = field(default_factory=list)

    def on_change(self, uid: str | None) -> None:
        self.changes.append(uid)
        self.changed.set()
        for listener in self.listeners:
            listener(uid)

    async def printed(self, uid: str, text: bytes) -> None:
        """Return once the console of `uid` has printed `text`."""
        seen = b""
        async with asyncio.timeout(30):
            async for piece in ConsoleLogs(self.consoles).read(uid, follow=True):
                seen += piece
                if text in seen:
                    return

    def disk(self, uid: str) -> Path:
        if self.host is not None:
            return self.host.stub_disk(uid)
        path = self.disks / f"{uid}.raw"
        path.touch()
        return path

    def definition(self, uid: str | None = None, **fields: object) -> Definition:
        uid = uid or new_uid()
        known: dict[str, object] = {
            "uid": uid,
            "name": "projects/p/servers/s",
            "project_uid": new_uid(),
            "generation": 1,
            "epoch": (1, 1),
            "virt_type": "qemu",
            "vcpus": 1,
            "memory_mib": 16,
            "disks": (Disk(FileSource(str(self.disk(uid))), uid.replace("-", "")[:20]),),
            "nics": (),
        }
        return Definition(**(known | fields))  # type: ignore[arg-type]  # each field is of its own type

    async def end_guest(self, uid: str) -> None:
        """Have the guest's process end as a crash does."""
        if isinstance(self.hypervisor, FakeHypervisor):
            self.hypervisor.end_guest(uid)
            return
        domain = await self.hypervisor.look(uid)
        assert self.host is not None and domain is not None and domain.process is not None
        self.host.kill(domain.process.pid)

    async def until(self, what: str, is_so: Condition, deadline_s: float = 30.0) -> None:
        """Wait until `is_so`, asked again whenever the hypervisor tells of a change, and ten times a second."""
        try:
            async with asyncio.timeout(deadline_s):
                while not await is_so():
                    self.changed.clear()
                    try:
                        async with asyncio.timeout(0.1):
                            await self.changed.wait()
                    except TimeoutError:
                        continue
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s:g} s: {what}") from None

    async def running(self, uid: str) -> Domain:
        domain = await self.hypervisor.look(uid)
        assert domain is not None and domain.process is not None
        return domain


@asynccontextmanager
async def running_bench(kind: str, host: LibvirtHost | None, directory: Path) -> AsyncIterator[Bench]:
    """Yield a hypervisor that is connected; nothing that was defined meanwhile is left."""
    if host is None:
        consoles = directory / "consoles"
        consoles.mkdir(exist_ok=True)
        processes = Processes(read_boot_id())
        bench = Bench(FakeHypervisor(directory / "fake.json", processes.boot_id, consoles), processes, consoles, None, directory)
    else:
        processes = Processes(read_boot_id(host.proc), host.proc)
        hypervisor = LibvirtHypervisor(
            host.uri, processes, run_directory=host.run_directory, log_directory=host.log_directory, console_directory=host.consoles
        )
        bench = Bench(hypervisor, processes, host.consoles, host, directory)
    task = asyncio.ensure_future(bench.hypervisor.run(bench.on_change))
    try:
        await bench.until("connected", lambda: _is_there(bench.hypervisor))
        yield bench
        for uid in await bench.hypervisor.list_uids():
            await bench.hypervisor.cut_power(uid)
            await bench.hypervisor.undefine(uid)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _is_there(hypervisor: Hypervisor) -> bool:
    try:
        await hypervisor.list_uids()
    except Unavailable:
        return False
    return True


@pytest.fixture(params=["fake", "libvirt"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    host = request.getfixturevalue("libvirt_host") if request.param == "libvirt" else None
    async with running_bench(request.param, host, tmp_path) as made:
        yield made
