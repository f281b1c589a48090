"""Tokens: what was put in comes out, and nothing else is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumo.errors import Aborted, InvalidArgument
from kumo.store.token import Position, Tokens

TOKENS = Tokens("01a20c39-d324-7771-99a8-2bb96e363e90", b"k" * 32)
REVISIONS = st.integers(1, 2**62)


@given(REVISIONS, st.integers(0, 1000), st.text())
def test_a_resume_token_leads_back_to_its_place(revision: int, delivered: int, scope: str) -> None:
    place = Position(revision, delivered)
    assert TOKENS.read_resume(TOKENS.resume(place, scope), scope) == place


@given(REVISIONS, st.text(), st.text())
def test_a_page_token_leads_back_to_its_page(revision: int, last: str, scope: str) -> None:
    assert TOKENS.read_page(TOKENS.page(revision, last, scope), scope) == (revision, last)


@given(REVISIONS, st.data())
def test_a_token_with_one_character_changed_is_refused(revision: int, data: st.DataObject) -> None:
    token = TOKENS.resume(Position(revision), "scope")
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("AZaz09-_").filter(lambda letter: letter != token[at]))
    changed = token[:at] + other + token[at + 1 :]
    with pytest.raises((InvalidArgument, Aborted)):
        TOKENS.read_resume(changed, "scope")


@given(REVISIONS)
def test_a_token_has_one_spelling(revision: int) -> None:
    token = TOKENS.resume(Position(revision), "scope")
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if letter != token[-1]:
            with pytest.raises(InvalidArgument):
                TOKENS.read_resume(token[:-1] + letter, "scope")


@given(st.text())
def test_any_text_that_is_no_token_is_an_invalid_argument(text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        TOKENS.read_page(text, "scope")
    assert (refusal.value.reason, refusal.value.field) == ("PAGE_TOKEN_INVALID", "page_token")


def test_a_token_of_another_kind_scope_or_key_is_refused() -> None:
    token = TOKENS.resume(Position(5), "scope")
    with pytest.raises(InvalidArgument, match="PAGE_TOKEN_INVALID"):
        TOKENS.read_page(token, "scope")
    with pytest.raises(InvalidArgument, match="RESUME_TOKEN_INVALID"):
        TOKENS.read_resume(token, "other")
    forger = Tokens("01a20c39-d324-7771-99a8-2bb96e363e90", b"x" * 32)
    with pytest.raises(InvalidArgument, match="RESUME_TOKEN_INVALID"):
        TOKENS.read_resume(forger.resume(Position(5), "scope"), "scope")
