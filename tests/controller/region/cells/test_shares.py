"""Properties of the region's own part of a record, over any order of choices, answers, withdrawals and ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.region.cells.shares import Own
from kumo.api.cell.v1.cell_pb2 import Verdict
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.api.type.v1.placement_pb2 import Share

CELLS = st.sampled_from("abc")
ANSWERS = st.sampled_from([Verdict.PLACED, Verdict.REFUSED, Verdict.WAITING, Verdict.WITHDRAWN])
GIVEN = st.tuples(st.just("given"), CELLS, st.just(0), st.just(Verdict.PLACED))
TOLD = st.tuples(st.just("told"), CELLS, st.integers(-1, 0), ANSWERS)
ENDED = st.tuples(st.just("ended"), CELLS, st.just(0), st.just(Verdict.PLACED))
STEPS = st.lists(st.one_of(GIVEN, TOLD, ENDED), max_size=15)


def verdict(answer: "Verdict.Answer.ValueType", epoch: int) -> Verdict:
    because = Condition(type="Placed", status=Condition.FALSE, reason="NO_ROOM", message="no")
    return Verdict(answer=answer, cell_epoch=epoch, because=because)


def step(own: Own, taken: tuple[str, str, int, "Verdict.Answer.ValueType"]) -> Own:
    kind, cell, lag, answer = taken
    share = own.share_of(cell)
    if kind == "given":
        return own.given_to(cell, own.next_epoch())
    if kind == "ended":
        return own.ended(cell)
    return own.told(cell, verdict(answer, (share.epoch if share is not None else 1) + lag))


@settings(deadline=None)
@given(steps=STEPS)
def test_epochs_rise_and_whoever_had_it_before_is_told_to_let_go(steps: list[tuple[str, str, int, "Verdict.Answer.ValueType"]]) -> None:
    own = Own()
    for taken in steps:
        before, own = own, step(own, taken)
        epochs = [share.epoch for share in own.shares]
        assert epochs == sorted(set(epochs))
        wanted = [share for share in own.live if not share.withdrawn]
        assert len(wanted) <= 1
        for old, new in zip(before.shares, own.shares, strict=False):
            assert (old.cell, old.epoch) == (new.cell, new.epoch)
            assert old.answer != Share.ENDED or new.answer == Share.ENDED
            assert old.answer != Share.REFUSED or new.answer in (Share.REFUSED, Share.ENDED)
            assert new.withdrawn or not old.withdrawn


@settings(deadline=None)
@given(steps=STEPS, cell=CELLS, answer=ANSWERS)
def test_what_is_said_of_an_earlier_epoch_changes_nothing(
    steps: list[tuple[str, str, int, "Verdict.Answer.ValueType"]], cell: str, answer: "Verdict.Answer.ValueType"
) -> None:
    own = Own()
    for taken in steps:
        own = step(own, taken)
    share = own.share_of(cell)
    if share is not None:
        assert own.told(cell, verdict(answer, share.epoch - 1)) == own


@settings(deadline=None)
@given(steps=STEPS)
def test_it_is_read_back_from_a_record_as_it_was_written(steps: list[tuple[str, str, int, "Verdict.Answer.ValueType"]]) -> None:
    own = Own()
    for taken in steps:
        own = step(own, taken)
    assert Own.of(own.part(Server())) == own


def test_a_reason_is_shown_until_there_is_a_place() -> None:
    waiting = Own().given_to("a", 1).told("a", verdict(Verdict.WAITING, 1))
    assert [condition.reason for condition in waiting.conditions] == ["NO_ROOM"]
    assert waiting.told("a", verdict(Verdict.PLACED, 1)).conditions == ()
