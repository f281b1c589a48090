"""Runs seeds by hand.

usage: python -m tests.simulation [--play region|store|order] [--twice] --seeds 1000-2000 | --seed 17 [--log] | --mutants [WORD]
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.order_play import OrderPlay
from tests.simulation.run import Outcome, Play, run
from tests.simulation.store_play import StorePlay
from tests.simulation.story import RegionPlay

PLAYS: dict[str, Callable[[], Play]] = {"region": RegionPlay, "store": StorePlay, "order": OrderPlay}
# A mutant is looked for in so many seeds at once, and in so many of them at most.
_CHUNK, _MOST_SEEDS = 8, 400


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", default="0-200", help="from-to, without the last")
    parser.add_argument("--play", choices=PLAYS, default="region")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--log", action="store_true", help="print every commit and call")
    parser.add_argument("--twice", action="store_true", help="run all once more: each seed's log has to be the same")
    parser.add_argument(
        "--mutants", nargs="?", const="", metavar="WORD", help="look for a seed that notices each, or those with WORD in their names"
    )
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is of it
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"})
    if arguments.mutants is not None:
        noticed = [_is_noticed(mutant) for mutant in MUTANTS if arguments.mutants in mutant.name]
        return 0 if all(noticed) else 1
    first, _, last = arguments.seeds.partition("-")
    seeds = [arguments.seed] if arguments.seed is not None else range(int(first), int(last))
    outcomes = _outcomes(arguments.play, seeds, is_twice=arguments.twice, lines=arguments.log)
    return _report(arguments.play, outcomes, all_of_them=arguments.seed is not None)


def _outcomes(play: str, seeds: Iterable[int], *, is_twice: bool, lines: bool) -> list[Outcome]:
    outcomes = run(PLAYS[play](), seeds, lines=lines)
    if not is_twice:
        return outcomes
    return [_compared(*pair) for pair in zip(outcomes, run(PLAYS[play](), seeds), strict=True)]


def _compared(outcome: Outcome, again: Outcome) -> Outcome:
    if outcome.log == again.log:
        return outcome
    return replace(outcome, broken=(*outcome.broken, f"two runs differ: {outcome.log} and {again.log}"))


def _report(play: str, outcomes: list[Outcome], *, all_of_them: bool) -> int:
    failed = [outcome for outcome in outcomes if outcome.broken]
    for outcome in outcomes if all_of_them else failed[:5]:
        print(f"seed {outcome.seed}: {outcome.log}, {outcome.commits} commits, {outcome.virtual_s:.1f} s in {outcome.wall_s:.2f} s")
        print("\n".join([*outcome.story, *(f"BROKEN {what}" for what in outcome.broken)]))
    print(f"{len(outcomes)} seeds, {len(failed)} failed: {[outcome.seed for outcome in failed]}")
    if failed and not all_of_them:
        print(f"once more, with its log: python -m tests.simulation --play {play} --seed {failed[0].seed} --log")
    wall = sum(outcome.wall_s for outcome in outcomes)
    print(f"{sum(outcome.virtual_s for outcome in outcomes):.0f} simulated seconds in {wall:.1f} s of processor")
    return 1 if failed else 0


def _is_noticed(mutant: Mutant) -> bool:
    """Return whether a seed fails with the mutant that does not fail without it."""
    for first in range(0, _MOST_SEEDS, _CHUNK):
        broken = [one for one in run(PLAYS[mutant.play](), range(first, first + _CHUNK), mutate=mutant.apply) if one.broken]
        if broken:
            fails_anyway = run(PLAYS[mutant.play](), [broken[0].seed])[0].broken
            how = f"fails without it too: {fails_anyway}" if fails_anyway else broken[0].broken[0][:160]
            print(f"{mutant.name}: play {mutant.play}, seed {broken[0].seed}: {how}", flush=True)
            return not fails_anyway
    print(f"{mutant.name}: noticed by none of {_MOST_SEEDS} seeds of the play {mutant.play}", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main())
