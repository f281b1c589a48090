"""What the reconciler needs of a hypervisor, and the values that pass between them. libvirt.py is the real one, fake.py its twin."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True)
class RbdSource:
    """An image of a Ceph pool, and as whom to open it. `key` is that user's secret: it goes into no file and no log."""

    pool: str
    image: str
    monitors: tuple[tuple[str, int], ...]
    user: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class FileSource:
    """A raw file of this host."""

    path: str


@dataclass(frozen=True)
class Disk:
    """A disk; `serial` is what the guest finds it by, at most 20 characters."""

    source: RbdSource | FileSource
    serial: str


@dataclass(frozen=True)
class Nic:
    """An interface; `tap` is the name that its host end gets."""

    tap: str
    mac: str
    mtu: int


@dataclass(frozen=True)
class Definition:
    """A server as a hypervisor shall know it. Two equal definitions make equal guests."""

    uid: str
    name: str
    project_uid: str
    generation: int
    epoch: tuple[int, int]
    virt_type: str
    vcpus: int
    memory_mib: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]


@dataclass(frozen=True)
class Process:
    """One process of one boot; `pid` alone may be used again. `start_ticks` counts from the kernel's boot."""

    boot_id: str
    pid: int
    start_ticks: int


@dataclass(frozen=True)
class Domain:
    """A server as the hypervisor knows it. `digest` is what digest_of() said of the definition it was given."""

    uid: str
    generation: int
    epoch: tuple[int, int]
    digest: str
    process: Process | None = None
    start_time: datetime | None = None
    # How it runs, or would.
    virt_type: str = ""
    # The hypervisor is not done with setting its process up: it may give the process up yet, and the disks are not all open.
    starting: bool = False
    # It has a process that waits for resume().
    paused: bool = False
    # The process stands still because a disk did not take what it wrote; resume() has it try again.
    halted: bool = False

    @property
    def runs(self) -> bool:
        """Whether its guest was let run."""
        return self.process is not None and not self.starting and not self.paused


@dataclass(frozen=True)
class DiskUsage:
    """What went through one disk, by its place in the definition, since the process started."""

    read_bytes: int
    read_count: int
    written_bytes: int
    write_count: int


@dataclass(frozen=True)
class Usage:
    """What a running server has taken since its process started, as the host sees it. `memory_bytes` is resident now."""

    uid: str
    cpu_s: float
    memory_bytes: int
    disks: tuple[DiskUsage, ...]


class ConsoleInput(Protocol):
    """The way into a serial console. What is printed lies in its log."""

    @property
    def closed(self) -> bool:
        """True once nothing can be sent any more, because the guest's process ended or another took the console."""

    async def send(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class Hypervisor(Protocol):
    """The servers of this host. Calls about one server come one after the other; a server that hangs does not hold up others.

    All raise Unavailable where the hypervisor does not answer, NotFound where the server is not defined, FailedPrecondition where
    the hypervisor refuses.
    """

    @property
    def problem(self) -> str:
        """Why the hypervisor cannot be used at present; empty when it can."""

    async def versions(self) -> dict[str, str]:
        """Return the versions of what runs guests, by name."""

    def digest_of(self, definition: Definition) -> str:
        """Return what tells this definition from others."""

    async def list_uids(self) -> list[str]:
        """Return the uids of all servers of Kumo that are defined."""

    async def forbid_autostart(self) -> list[str]:
        """Have the hypervisor start no server by itself, without a look at who owns its disk; return those that it would have."""

    async def look(self, uid: str) -> Domain | None:
        """Return the server, or None if it is not defined."""

    async def usage(self) -> list[Usage]:
        """Return what each running server has taken; one that hangs may be missing."""

    async def define(self, definition: Definition) -> None:
        """Define or change the server; what runs is not touched."""

    async def start(self, definition: Definition) -> None:
        """Start a process, as it was defined, that waits for resume(); fine if one runs."""

    async def resume(self, uid: str) -> None: ...

    async def ask_to_stop(self, uid: str) -> None:
        """Press the guest's power button."""

    async def cut_power(self, uid: str) -> None:
        """End the process; fine if none runs."""

    async def undefine(self, uid: str) -> None:
        """Have nothing of it left; fine if it is not defined."""

    async def open_console(self, uid: str) -> ConsoleInput: ...

    async def run(self, on_change: Callable[[str | None], None]) -> None:
        """Keep connected until cancelled. `on_change` is told which server to look at; None: at all, for events may be lost."""
