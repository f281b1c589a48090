"""Runs one of Kumo's programs with a wall clock that can be made to jump while it runs: its offset in seconds is read from a file.

Monotonic time goes on as it is, as it does on a machine whose clock is set.

usage: python -m tests.controller.planes.clock FILE MODULE [ARGUMENT...]
"""

import runpy
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kumo.clock import SystemClock


def jump(file: Path, seconds: int) -> None:
    """Have the clock of whoever reads `file` be `seconds` ahead of the true one."""
    fresh = file.with_suffix(".new")
    fresh.write_text(str(seconds))
    fresh.replace(file)


def live_by(file: Path) -> None:
    """Have the one way to ask for the time in this process answer by `file`."""

    def now(_clock: SystemClock) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=int(file.read_text()))

    # The machine's own clock cannot be set for one process.
    setattr(SystemClock, "now", now)  # noqa: B010  # mypy lets nobody assign to a method


if __name__ == "__main__":
    live_by(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
