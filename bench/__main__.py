"""Runs every benchmark, each in a process of its own, prints a table and writes bench/results.json.

usage: python -m bench [NAME...]
"""

import json
import subprocess
import sys
from pathlib import Path

from bench.results import Row, as_json, table

FOLDER = Path(__file__).resolve().parent
SUPPORT = {"__init__", "__main__", "accept", "farm", "lab", "results"}
TIMEOUT_S = 1800


def names() -> list[str]:
    """Return every benchmark there is: one a module."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SUPPORT)


def run(name: str) -> list[Row] | None:
    """Return the rows of one benchmark, or None if it failed; what it says meanwhile goes to stderr."""
    print(f"bench: {name}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"bench.{name}", "--json"]
    try:
        done = subprocess.run(command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False)
        return [Row(**row) for row in json.loads(done.stdout)] if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError, TypeError) as error:
        print(f"bench: {name}: {error}", file=sys.stderr)
        return None


def main() -> int:
    chosen = sys.argv[1:] or names()
    results = {name: run(name) for name in chosen}
    rows = [row for found in results.values() if found is not None for row in found]
    print(table(rows))
    (FOLDER / "results.json").write_text(as_json(rows) + "\n")
    failed = [name for name, found in results.items() if found is None]
    for name in failed:
        print(f"bench: {name} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
