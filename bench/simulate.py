"""How many seeds of the simulation run in a second: whole regions under faults, from furnished to cleaned up, two at a time.

usage: python -m bench.simulate [--json]
"""

import os
import sys
import time

from bench.lab import enter_sandbox
from bench.results import Row, hand_in
from tests.simulation.run import run
from tests.simulation.story import RegionPlay

SEEDS = 40


def main() -> None:
    os.environ["PYTHONHASHSEED"] = "0"  # for the process that begins anew in the sandbox: the order of sets is of it
    enter_sandbox("bench.simulate")
    began = time.perf_counter()
    failed = [outcome.seed for outcome in run(RegionPlay(), range(SEEDS)) if outcome.broken]
    took_s = time.perf_counter() - began
    if failed:
        print(f"seeds {failed} failed: python -m tests.simulation --seed {failed[0]} --log", file=sys.stderr)
    hand_in([Row("simulate.seeds_per_s", round(SEEDS / took_s, 2), "1/s", SEEDS)])


if __name__ == "__main__":
    main()
