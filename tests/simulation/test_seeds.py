"""A sample of seeds, each run twice, and the seeds that once found something; any others by hand: `python -m tests.simulation`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak import count

_ROOT = Path(__file__).parents[2]
_LONGEST_S = 540.0


def play(name: str, *arguments: str) -> None:
    """Run seeds in a process of their own, where the order of sets is fixed. Fails with what they print."""
    command = [sys.executable, "-m", "tests.simulation", "--play", name, *arguments]
    done = subprocess.run(
        command, cwd=_ROOT, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, timeout=_LONGEST_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_store_and_the_loop_lose_and_double_nothing_in_any_seed_and_a_seed_is_one_story() -> None:
    play("store", "--twice", "--seeds", f"0-{count(170, 2000)}")


def test_a_region_loses_doubles_and_leaks_nothing_in_any_seed_and_a_seed_is_one_story() -> None:
    play("region", "--twice", "--seeds", f"0-{count(30, 200)}")


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        pytest.param("store", 35, id="what a deposed leader had under way comes after its successor asked what there is"),
    ],
)
def test_what_was_found_once_is_not_found_again(name: str, seed: int) -> None:
    play(name, "--seed", str(seed))
