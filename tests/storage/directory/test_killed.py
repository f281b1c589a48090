"""A kill at any step of any work on a directory leaves the old or the new, and nothing that the sweep does not take away."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
LEAST_STEPS = {"imports": 8, "clones": 8, "marks": 4, "deletes": 4}


def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.storage.directory.killed", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {name: int(count) for name, count in (line.split() for line in done.stdout.splitlines())}
    assert steps.keys() == LEAST_STEPS.keys()
    assert all(steps[name] >= least for name, least in LEAST_STEPS.items()), f"hardly anything was killed: {steps}"
