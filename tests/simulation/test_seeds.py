"""A sample of seeds, each run twice; the seeds that once found something; and what the simulation has to notice.

Any others by hand: `python -m tests.simulation`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak import count

_ROOT = Path(__file__).parents[2]
_LONGEST_S = 540.0


def simulate(*arguments: str) -> None:
    """Run seeds in a process of their own, where the order of sets is fixed. Fails with what they print."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SEEDS = {"store": count(100, 2000), "order": count(60, 2000), "region": count(200, 2000)}
# So many at a time, that a slice of any play ends in time on a busy machine.
SLICE = 100


@pytest.mark.parametrize(("play", "first"), [(play, first) for play, seeds in SEEDS.items() for first in range(0, seeds, SLICE)])
def test_nothing_is_lost_doubled_or_left_over_in_any_seed_and_a_seed_is_one_story(play: str, first: int) -> None:
    simulate("--play", play, "--twice", "--seeds", f"{first}-{min(first + SLICE, SEEDS[play])}")


@pytest.mark.parametrize(
    ("play", "seed"),
    [
        pytest.param("store", 35, id="what a deposed leader had under way comes after its successor asked what there is"),
        pytest.param("order", 2, id="a create that was sent twice arrives again after the delete"),
        pytest.param("region", 21, id="a delete of a controller that knows only an earlier server of that name"),
    ],
)
def test_what_was_found_once_is_not_found_again(play: str, seed: int) -> None:
    simulate("--play", play, "--seed", str(seed))


def test_every_mutant_is_noticed() -> None:
    simulate("--mutants")
