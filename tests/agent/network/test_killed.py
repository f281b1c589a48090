"""An agent killed anywhere leaves nothing that the next one does not put right, and never touches what is not Kumo's."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.network import netns
from tests.agent.network.kernel_state import state
from tests.agent.network.lab import CHECKOUT, Lab, shell

ROUNDS = 6


def run(directory: Path, seed: int, rounds: int) -> None:
    command = [sys.executable, "-m", "tests.agent.network.killed_agent", str(directory), str(seed), str(rounds)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "settled" in done.stdout, done.stderr[-3000:]


def observed(lab: Lab) -> dict[str, list[str]]:
    return state(lab.plane, *map(str, sorted(lab.namespaces.glob("md-*"))))


@pytest.mark.parametrize("seed", [1, 2])
def test_after_kills_at_random_moments_all_is_as_if_made_from_nothing(lab: Lab, seed: int) -> None:
    netns_directory = lab.namespaces
    netns_directory.mkdir()
    netns.create(lab.plane)
    foreign = ("foreign0", "foreign_table", "10.77.0.0/24")
    shell(lab.plane, "ip", "link", "add", foreign[0], "type", "bridge")
    shell(lab.plane, "ip", "link", "set", foreign[0], "up")
    shell(lab.plane, "ip", "addr", "add", "10.77.0.1/24", "dev", foreign[0])
    shell(lab.plane, "nft", f"add table inet {foreign[1]}; add chain inet {foreign[1]} c; add rule inet {foreign[1]} c counter")

    run(lab.directory, seed, ROUNDS)
    once = observed(lab)
    run(lab.directory, seed, 0)
    assert len(once["links"]) > 3 and any("02:aa:00:00:00" in line for line in once["rules"])
    assert observed(lab) == once  # and a second pass finds nothing to do
    assert foreign[0] in "".join(once["links"]) and foreign[1] in "".join(once["rules"])
    assert foreign[2] in shell(lab.plane, "ip", "route")

    # From nothing, by the same commands: only the state files are kept.
    shell(lab.plane, "ip", "link", "del", foreign[0])
    shell(lab.plane, "nft", "delete", "table", "inet", foreign[1])
    damaged = observed(lab)
    lab.boot()
    shutil.rmtree(lab.directory / "network")
    shutil.rmtree(lab.directory / "guest")
    run(lab.directory, seed, 0)
    fresh = observed(lab)
    assert {part: sorted(set(found) ^ set(fresh[part])) for part, found in damaged.items() if found != fresh[part]} == {}
    assert damaged.keys() == fresh.keys()
