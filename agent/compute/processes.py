"""Finds and tells apart processes: a pid with its start time, and the boot, since pids are used again."""

import os
from datetime import UTC, datetime
from pathlib import Path

from agent.compute.driver import Process

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Processes:
    """The processes of one boot of one host; `proc` is where its /proc is mounted."""

    def __init__(self, boot_id: str, proc: Path = Path("/proc")) -> None:
        self.boot_id = boot_id
        self._proc = proc
        self._booted_at = _boot_time(proc)

    def find(self, pid: int) -> Process | None:
        """Return the process that has `pid` now; None if none has, or only the rest of one that nobody has waited for."""
        fields = _stat(self._proc / str(pid) / "stat")
        if fields is None or fields[0] in ("Z", "X"):
            return None
        return Process(self.boot_id, pid, int(fields[19]))

    def is_gone(self, process: Process) -> bool:
        """True if it is proven that `process` runs no more: another boot, or another start time under its pid, or no such pid."""
        return process.boot_id != self.boot_id or self.find(process.pid) != process

    def start_time(self, process: Process) -> datetime:
        return datetime.fromtimestamp(self._booted_at + process.start_ticks / _TICKS_PER_S, UTC)


def read_boot_id(proc: Path = Path("/proc")) -> str:
    """Return the kernel's boot id joined with the start of the host's init, for hosts that share a kernel."""
    kernel = (proc / "sys/kernel/random/boot_id").read_text().strip()
    init = _stat(proc / "1/stat")
    return f"{kernel}-{init[19] if init else 0}"


def _stat(path: Path) -> list[str] | None:
    """Return the fields of proc(5) stat from the third on; the second may hold blanks and brackets."""
    try:
        text = path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _boot_time(proc: Path) -> float:
    for line in (proc / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise ValueError(f"{proc}/stat names no boot time")
