"""Decides whether a process that once served a disk is gone: by its pid and start time in this boot, or by another boot since."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessGone:
    """The process `pid`, started `start_ticks` after boot, has ended: the pid is free, or is another process now."""

    pid: int
    start_ticks: int

    def holds(self) -> bool:
        return start_ticks_of(self.pid) != self.start_ticks


@dataclass(frozen=True)
class BootGone:
    """The process ran in boot `boot_id`, as `current` would have said then; what ran in another boot runs no more."""

    boot_id: str
    current: str

    def holds(self) -> bool:
        return self.boot_id != "" and self.current != "" and self.boot_id != self.current


Proof = ProcessGone | BootGone


def start_ticks_of(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot; None if it is gone, a zombie among them."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything: the fields begin behind the last one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])
