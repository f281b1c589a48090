"""Runs every test: two lanes side by side, each in namespaces of its own, because each of them mostly waits. Chooses nothing else.

The lane `labs` holds what brings up whole labs, `parts` all the rest, so that a new folder is in one of them by itself. What a lane
says is passed on line by line, but for its failures, which come whole at the end.

usage: python -m tests [pytest's arguments: then all of it is one run]
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
LABS = ("flows", "deploy")
SANDBOX = [sys.executable, "-m", "deploy.sandbox", sys.executable, "-m", "pytest"]
# From here on pytest's report is about what went wrong.
REPORTS = ("= FAILURES", "= ERRORS", "= short test summary", "= warnings summary")


def lanes() -> dict[str, list[str]]:
    """Return what pytest is told to look at, by lane: every folder and every test file directly in tests/ is in exactly one."""
    found = sorted(path for path in HERE.iterdir() if path.name.startswith("test_") or (path.is_dir() and path.name[0] not in "._"))
    parts = [str(path.relative_to(HERE.parent)) for path in found if path.name not in LABS]
    return {"labs": [f"tests/{name}" for name in LABS], "parts": parts}


class Lane:
    """One pytest in a sandbox; `report` is what it said of failures, and its last word."""

    def __init__(self, paths: list[str]) -> None:
        command = [*SANDBOX, "-p", "no:cacheprovider", *paths]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.report: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self._reader.start()

    def _read(self, output: IO[str]) -> None:
        for line in output:
            if self.report or any(report in line for report in REPORTS) or (line.startswith("=" * 8) and " in " in line):
                self.report.append(line)
            else:
                print(line, end="", flush=True)

    def wait(self) -> int:
        code = self.process.wait()
        self._reader.join()
        return code


def _pass_on(number: int, lanes: Iterable[Lane]) -> None:
    for lane in lanes:
        lane.process.send_signal(number)


def main(arguments: list[str]) -> int:
    if arguments:
        return subprocess.run([*SANDBOX, *arguments], check=False).returncode
    running = {name: Lane(paths) for name, paths in lanes().items()}
    # A terminal sends SIGINT to all; whoever ends this alone means them too.
    signal.signal(signal.SIGTERM, lambda number, _: _pass_on(number, running.values()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    codes = {name: lane.wait() for name, lane in running.items()}
    for name, lane in running.items():
        print(f"\nlane {name}, exit {codes[name]}:\n{''.join(lane.report)}", flush=True)
    return max(codes.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
