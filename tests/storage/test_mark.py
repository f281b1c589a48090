"""The owner's mark: what may follow what, as values; the race for it is proved of the drivers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumo.errors import FailedPrecondition, Unavailable
from storage.mark import Mark, mark_of, successor, text_of

EPOCHS = st.integers(0, 3)
OWNERS = st.builds(Mark, st.sampled_from(["s1", "s2"]), st.sampled_from(["h1", "h2"]), EPOCHS, EPOCHS)
MARKS = st.one_of(OWNERS, st.builds(Mark, cell_epoch=EPOCHS, host_epoch=EPOCHS))


@given(MARKS)
def test_a_mark_is_one_text_and_that_text_is_the_mark(mark: Mark) -> None:
    assert mark_of(text_of(mark)) == mark
    assert text_of(mark_of(text_of(mark))) == text_of(mark)


@given(MARKS, MARKS, MARKS)
def test_an_epoch_never_goes_back_and_only_who_was_right_changes_the_owner(held: Mark, expected: Mark, wanted: Mark) -> None:
    try:
        after = successor(held, expected, wanted)
    except FailedPrecondition as refused:
        assert refused.reason == "OWNER_CHANGED"
        assert not wanted.same_owner(held)
        assert not held.same_owner(expected) or wanted.epoch < held.epoch
        assert (refused.metadata["held_server_uid"], refused.metadata["held_host"]) == (held.server_uid, held.host)
        return
    assert after.epoch >= held.epoch
    assert after.same_owner(wanted)
    assert after == held or held.same_owner(expected)


@given(st.lists(st.tuples(MARKS, MARKS), max_size=12))
def test_whatever_is_asked_in_whatever_order_epochs_only_grow(asked: list[tuple[Mark, Mark]]) -> None:
    held = Mark()
    for expected, wanted in asked:
        try:
            after = successor(held, expected, wanted)
        except FailedPrecondition:
            continue
        assert after.epoch >= held.epoch
        held = after


@given(st.text(max_size=40))
def test_what_is_no_mark_is_never_taken_for_nobody(text: str) -> None:
    try:
        assert text_of(mark_of(text)) == text
    except Unavailable as error:
        assert error.reason == "OWNER_UNREADABLE"


def test_a_mark_of_a_later_format_is_refused() -> None:
    with pytest.raises(Unavailable, match="OWNER_UNREADABLE"):
        mark_of("2 1 1 s1 h1")
