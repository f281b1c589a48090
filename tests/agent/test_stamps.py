"""Of the commands about one thing the one that is ahead wins, in whatever order they come and whenever the agent is started anew."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.stamps import TOMBSTONE_AGE, Commands, Terms
from agent.state import StateFiles
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest, DesiredServer
from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp, Term
from kumo.clock import SystemClock
from kumo.errors import DeadlineExceeded, FailedPrecondition
from kumo.ids import new_uid
from tests.virtual_clock import VirtualClock

INCARNATIONS = [new_uid() for _ in range(2)]
UID = new_uid()


def stamp(incarnation: int = 0, revision: int = 1, sequence: int = 1, generation: int = 1, epoch: tuple[int, int] = (1, 1)) -> Stamp:
    term = Term(incarnation=INCARNATIONS[incarnation], create_revision=revision)
    return Stamp(term=term, sequence=sequence, epoch=Epoch(cell=epoch[0], host=epoch[1]), generation=generation)


def command(ordered: Stamp, name: str = "s", uid: str = UID) -> ApplyServerRequest:
    return ApplyServerRequest(stamp=ordered, uid=uid, desired=DesiredServer(name=name) if name else None)


def opened(directory: Path, clock: VirtualClock | SystemClock | None = None) -> Commands[ApplyServerRequest]:
    files = StateFiles(directory)
    terms = Terms(files)
    terms.load()
    commands = Commands(files, "servers", ApplyServerRequest, terms, clock)
    commands.load()
    return commands


def order(ordered: Stamp) -> tuple[object, ...]:
    return (ordered.term.incarnation, ordered.term.create_revision)


STAMPS = st.builds(
    stamp,
    incarnation=st.integers(0, 1),
    revision=st.integers(1, 2),
    sequence=st.integers(0, 2),
    generation=st.integers(0, 2),
    epoch=st.tuples(st.integers(0, 1), st.integers(0, 1)),
)


@given(stamps=st.lists(STAMPS, min_size=1, max_size=8), restarts=st.sets(st.integers(0, 7)))
def test_nothing_that_was_held_is_ever_gone_back_on(
    tmp_path_factory: pytest.TempPathFactory, stamps: list[Stamp], restarts: set[int]
) -> None:
    async def work() -> None:
        directory = tmp_path_factory.mktemp("stamps")
        commands = opened(directory)
        largest: tuple[object, ...] = ()
        for index, ordered in enumerate(stamps):
            if index in restarts:
                commands = opened(directory)
            before = commands.held.get(UID)
            try:
                await commands.accept(command(ordered))
            except FailedPrecondition as refused:
                assert refused.reason == "STALE_COMMAND"
                assert commands.held.get(UID) == before
                continue
            assert not largest or order(ordered) >= largest
            largest = order(ordered)
            if before is not None:
                assert ordered.generation >= before.stamp.generation
                assert (ordered.epoch.cell, ordered.epoch.host) >= (before.stamp.epoch.cell, before.stamp.epoch.host)
                assert order(ordered) > order(before.stamp) or ordered.sequence >= before.stamp.sequence
            assert commands.held[UID].stamp == ordered

    asyncio.run(work())


@pytest.mark.parametrize(
    ("late", "behind"),
    [
        (stamp(revision=4, sequence=9, generation=9, epoch=(9, 9)), "term"),
        (stamp(revision=5, sequence=9, generation=9, epoch=(3, 3)), "epoch"),
        (stamp(revision=6, sequence=9, generation=9, epoch=(2, 9)), "epoch"),
        (stamp(revision=6, sequence=9, generation=4, epoch=(9, 9)), "generation"),
        (stamp(revision=5, sequence=4, generation=9, epoch=(9, 9)), "sequence"),
    ],
)
async def test_the_refusal_says_what_is_behind_and_what_is_held(tmp_path: Path, late: Stamp, behind: str) -> None:
    commands = opened(tmp_path)
    await commands.accept(command(stamp(revision=5, sequence=5, generation=5, epoch=(3, 4))))
    with pytest.raises(FailedPrecondition) as refused:
        await commands.accept(command(late))
    said = refused.value.metadata
    assert said["behind"] == behind
    assert (said["held_epoch_cell"], said["held_epoch_host"], said["held_generation"], said["held_sequence"]) == ("3", "4", "5", "5")
    assert said["largest_create_revision"] == "5"


async def test_a_new_term_counts_its_commands_anew(tmp_path: Path) -> None:
    commands = opened(tmp_path)
    await commands.accept(command(stamp(revision=5, sequence=50)))
    await commands.accept(command(stamp(revision=6, sequence=0), "new"))
    assert commands.held[UID].desired.name == "new"


async def test_the_term_of_one_thing_refuses_older_commands_about_all(tmp_path: Path) -> None:
    commands = opened(tmp_path)
    await commands.accept(command(stamp(revision=5)))
    with pytest.raises(FailedPrecondition) as refused:
        await commands.accept(command(stamp(revision=4), uid=new_uid()))
    assert refused.value.metadata["behind"] == "term"


async def test_a_tombstone_refuses_what_is_late_until_an_hour_after_its_acknowledgement(tmp_path: Path) -> None:
    clock = VirtualClock()
    commands = opened(tmp_path, clock)
    await commands.accept(command(stamp(generation=1)))
    await commands.accept(command(stamp(sequence=2, generation=2), ""))
    assert commands.is_tombstone(UID)
    await clock.advance(timedelta(days=300).total_seconds())
    assert await commands.drop_old_tombstones() == [], "it has no age before it is acknowledged"
    await commands.acknowledge([UID, new_uid()])
    await clock.advance(TOMBSTONE_AGE.total_seconds() - 1)
    commands = opened(tmp_path, clock)
    assert await commands.drop_old_tombstones() == []
    with pytest.raises(FailedPrecondition):
        await commands.accept(command(stamp(generation=1)))
    await clock.advance(2)
    assert await commands.drop_old_tombstones() == [UID]
    assert UID not in opened(tmp_path, clock).held


async def test_what_is_wanted_again_is_not_dropped_for_an_old_acknowledgement(tmp_path: Path) -> None:
    clock = VirtualClock()
    commands = opened(tmp_path, clock)
    await commands.accept(command(stamp(generation=1), ""))
    await commands.acknowledge([UID])
    await commands.accept(command(stamp(generation=2, sequence=2)))
    await clock.advance(2 * TOMBSTONE_AGE.total_seconds())
    assert await commands.drop_old_tombstones() == []
    assert UID in commands.held


async def test_an_end_that_is_not_there_cannot_be_acknowledged(tmp_path: Path) -> None:
    clock = VirtualClock()
    commands = opened(tmp_path, clock)
    await commands.accept(command(stamp()))
    await commands.acknowledge([UID])
    await clock.advance(2 * TOMBSTONE_AGE.total_seconds())
    assert await commands.drop_old_tombstones() == []


async def test_a_command_that_could_not_be_committed_in_time_is_not_held(tmp_path: Path) -> None:
    commands = opened(tmp_path)
    with pytest.raises(DeadlineExceeded):
        await commands.accept(command(stamp()), within_s=0.0)
    assert UID not in commands.held and UID not in opened(tmp_path).held
