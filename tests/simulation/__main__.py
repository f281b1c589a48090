"""Runs seeds by hand.

usage: python -m tests.simulation [--play region|store|order] [--twice] --seeds 1000-2000 | --seed 17 [--log]
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace

from tests.simulation.order_play import OrderPlay
from tests.simulation.run import Outcome, Play, run
from tests.simulation.store_play import StorePlay
from tests.simulation.story import RegionPlay

PLAYS: dict[str, Callable[[], Play]] = {"region": RegionPlay, "store": StorePlay, "order": OrderPlay}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", default="0-200", help="from-to, without the last")
    parser.add_argument("--play", choices=PLAYS, default="region")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--log", action="store_true", help="print every commit and call")
    parser.add_argument("--twice", action="store_true", help="run all once more: each seed's log has to be the same")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is of it
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"})
    first, _, last = arguments.seeds.partition("-")
    seeds = [arguments.seed] if arguments.seed is not None else range(int(first), int(last))
    outcomes = run(PLAYS[arguments.play](), seeds, lines=arguments.log)
    if arguments.twice:
        outcomes = [_compared(*pair) for pair in zip(outcomes, run(PLAYS[arguments.play](), seeds, lines=arguments.log), strict=True)]
    failed = [outcome for outcome in outcomes if outcome.broken]
    for outcome in failed[:5] if arguments.seed is None else outcomes:
        print(f"seed {outcome.seed}: {outcome.log}, {outcome.commits} commits, {outcome.virtual_s:.1f} s in {outcome.wall_s:.2f} s")
        print("\n".join([*outcome.story, *(f"BROKEN {what}" for what in outcome.broken)]))
    print(f"{len(outcomes)} seeds, {len(failed)} failed: {[outcome.seed for outcome in failed]}")
    if failed and arguments.seed is None:
        print(f"once more, with its log: python -m tests.simulation --play {arguments.play} --seed {failed[0].seed} --log")
    wall = sum(outcome.wall_s for outcome in outcomes)
    print(f"{sum(outcome.virtual_s for outcome in outcomes):.0f} simulated seconds in {wall:.1f} s of processor")
    return 1 if failed else 0


def _compared(outcome: Outcome, again: Outcome) -> Outcome:
    if outcome.log == again.log:
        return outcome
    return replace(outcome, broken=(*outcome.broken, f"two runs differ: {outcome.log} and {again.log}"))


if __name__ == "__main__":
    sys.exit(main())
