"""Processes die before and after the steps of a server's life: the work ends by itself, and nothing is lost, doubled or left over.

A clean run of create, stop, start, reboot and delete writes the steps down. `make test` takes a sample of all deaths, by a seed that is
told and may be given, in which everybody dies; `make soak` takes all, in an order of the seed. tests/controller/cell/test_crash.py does
every step of the cell on the agents' fakes.

  KUMO_SEED         the seed
  KUMO_DEATHS       how many deaths a soak takes, the first of its order; without it all
  KUMO_DEATH        takes those deaths alone, soak or not, whose own sentence contains this: "libvirtd dies after step 3 of"
  KUMO_DEATH_TIMES  how often each of those; without it once
"""

import itertools
import logging
import os
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.flows import settled
from tests.flows.acts import ACTS, Life
from tests.flows.hosts import Hosts
from tests.flows.mortal import OTHERS, Death, Mortals, mortal, until_serving
from tests.soak import IS_SOAK

log = logging.getLogger(__name__)

HOST = "h1"
HALVES = ("before", "after")
SEED = int(os.environ.get("KUMO_SEED") or secrets.randbits(32))
# In `make test`; one death in each act of a life.
LIVES = 4
VICTIMS = ("region", "cell", "agent", *OTHERS)


@dataclass
class Stage:
    """A lab whose processes die, a server that nobody touches, and the steps of a clean life: act → process → steps."""

    mortals: Mortals
    steady: str
    pid: set[int]
    steps: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def hosts(self) -> Hosts:
        return self.mortals.hosts

    def check(self, why: str) -> None:
        """Wait until nothing is out of place; the server that nobody touched runs on in its process."""
        settled.wait_until_clean(self.hosts, why)
        assert settled.pids_of(self.hosts, HOST, self.steady) == self.pid, f"another server's QEMU: {why}"

    def deaths(self) -> list[Death]:
        """Return every death there can be."""
        found = []
        for act, processes in self.steps.items():
            for process, labels in processes.items():
                for index, when, victim in itertools.product(range(len(labels)), HALVES, ("itself", *OTHERS)):
                    found.append(Death(victim, act, process, index, when))
        return found


@pytest.fixture(scope="module")
def stage(hosts: Hosts) -> Iterator[Stage]:
    settled.prepare(hosts)
    steady = settled.create(hosts, "steady", HOST)
    with hosts.only_on(HOST):
        try:
            with mortal(hosts) as mortals:
                made = Stage(mortals, steady, settled.pids_of(hosts, HOST, steady))
                made.check("before all")
                _record(made)
                yield made
        finally:
            hosts.kumo("server", "delete", "steady", "--wait", "--timeout", "60")


def _record(stage: Stage) -> None:
    life = Life(stage.hosts, "clean", lambda: None)
    for act in ACTS:
        stage.mortals.record()
        life.act(act, "nobody dies")
        stage.check(f"after a clean {act}")
        stage.steps[act] = stage.mortals.recorded()


def victim_of(death: Death) -> str:
    if death.victim != "itself":
        return death.victim
    return "agent" if "agent" in death.process else death.process.rpartition("-")[2]


def sample(deaths: list[Death], rng: random.Random) -> list[Death]:
    """Return deaths for some lives, act by act: each time another victim's turn, so that all come."""
    turns = itertools.cycle(rng.sample(VICTIMS, len(VICTIMS)))
    acts = zip(ACTS * LIVES, turns, strict=False)
    return [rng.choice([one for one in deaths if one.act == act and victim_of(one) == victim]) for act, victim in acts]


def choose(every: list[Death], seed: int) -> list[Death]:
    """Return the deaths that this run takes, as the environment says."""
    rng = random.Random(seed)
    if wanted := os.environ.get("KUMO_DEATH"):
        found = [one for one in every if wanted in str(one)]
        assert found, f"no death is {wanted!r}; one is {rng.choice(every)}"
        return found * int(os.environ.get("KUMO_DEATH_TIMES") or 1)
    if not IS_SOAK:
        chosen = sample(every, rng)
        assert {victim_of(one) for one in chosen} == set(VICTIMS)
        return chosen
    # Shuffled: so that a soak that is ended early has been everywhere.
    return rng.sample(every, len(every))[: int(os.environ.get("KUMO_DEATHS") or len(every))]


def by_life(deaths: list[Death]) -> list[list[Death]]:
    """Return deaths in groups of at most one an act, in the order of the acts."""
    columns = [[one for one in deaths if one.act == act] for act in ACTS]
    return [[one for one in row if one is not None] for row in itertools.zip_longest(*columns)]


def dies(stage: Stage, life: Life, death: Death) -> bool:
    """Do an act during which somebody dies, and return whether that came about."""
    mortals, killed = stage.mortals, False

    def meanwhile() -> None:
        nonlocal killed
        if not mortals.has_struck(death.process):
            return
        if death.victim != "itself" and not killed:
            killed = True
            mortals.kill(death.victim, death.process)
        settled.restart_what_died(stage.hosts)

    life.meanwhile = meanwhile
    mortals.plan(death.process, death.index, death.when, "die" if death.victim == "itself" else "pause")
    life.act(death.act, str(death))
    meanwhile()
    struck = mortals.forget(death.process)
    running = settled.pids_of(stage.hosts, HOST, life.uid) if life.uid else set()
    until_serving(stage.hosts)
    stage.check(str(death))
    if life.uid:
        assert settled.pids_of(stage.hosts, HOST, life.uid) == running, f"its QEMU: {death}"
    return struck


@pytest.mark.timeout(86_400 if IS_SOAK else 600)
@pytest.mark.parametrize("seed", [SEED], ids=lambda seed: f"seed-{seed}")
def test_whatever_dies_at_whichever_step_the_work_ends_and_nothing_is_left(stage: Stage, seed: int) -> None:
    every = stage.deaths()
    chosen = choose(every, seed)
    log.info("seed %d: %d deaths of %d", seed, len(chosen), len(every))
    came = 0
    for number, row in enumerate(by_life(chosen)):
        life = Life(stage.hosts, f"mortal-{number}", lambda: None)
        of_act = {death.act: death for death in row}
        for act in ACTS:
            if act in of_act:
                log.info("life %d: %s", number, of_act[act])
                came += dies(stage, life, of_act[act])
            else:
                life.act(act, f"nobody dies, seed {seed}")
    assert came >= len(chosen) // 2, f"of {len(chosen)} deaths only {came} came about: the steps are not where they were"
