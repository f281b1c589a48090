"""What guests and names print cannot act on the terminal it is shown on."""

import re

from hypothesis import given
from hypothesis import strategies as st

from cli.terminal import ConsoleFilter, LogFilter, harmless

# Pieces that hostile output is made of, so that hypothesis finds sequences and not only noise.
PIECES = st.sampled_from(
    [
        b"\x1b",
        b"[",
        b"]",
        b"0;",
        b"title",
        b"\x07",
        b"\\",
        b"P",
        b"_",
        b"6n",
        b"c",
        b"?25h",
        b"31m",
        b"2J",
        b"\x9b",
        b"\xc2\x9b",
        "\u202e".encode(),
        b"\x18",
        b"text",
        b"\n",
        b"\x00",
        b">",
        b"!p",
        b"\x1bc",
        b"(0",
    ]
)
OUTPUT = st.lists(st.one_of(PIECES, st.binary(max_size=8)), max_size=40).map(b"".join)
ALLOWED = re.compile(rb"\x1b\[[?0-9;:]*[A-Za-z@`]|\x1b[78DEM=>]")


@given(st.text())
def test_text_with_control_characters_is_shown_as_escapes(text: str) -> None:
    shown = harmless(text)
    assert not [letter for letter in shown if (ord(letter) < 0x20 and letter not in "\t\n") or 0x7F <= ord(letter) <= 0x9F]


@given(st.text(alphabet=st.characters(categories=["L", "N", "P"])))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


@given(OUTPUT)
def test_a_log_reaches_the_terminal_without_any_escape(data: bytes) -> None:
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", LogFilter().feed(data))


@given(OUTPUT)
def test_a_console_lets_through_only_movement_colours_and_known_modes(data: bytes) -> None:
    rest = ALLOWED.sub(b"", ConsoleFilter().feed(data))
    assert b"\x1b" not in rest


@given(OUTPUT, st.integers(0, 200))
def test_where_the_stream_is_cut_does_not_matter(data: bytes, at: int) -> None:
    whole, cut = ConsoleFilter(), ConsoleFilter()
    assert whole.feed(data) == cut.feed(data[:at]) + cut.feed(data[at:])


@given(OUTPUT)
def test_no_8_bit_control_gets_through_whichever_way_it_is_encoded(data: bytes) -> None:
    for plain in (True, False):
        shown = ConsoleFilter(plain).feed(data).decode()
        assert not re.search("[\x80-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def test_text_in_any_script_stays_wherever_it_is_cut() -> None:
    text = "Grüße, 世界 🌍".encode()
    clean = LogFilter()
    assert b"".join(clean.feed(text[at : at + 1]) for at in range(len(text))) == text


def test_requests_that_make_a_terminal_answer_are_dropped() -> None:
    for request in (
        b"\x1b[6n",
        b"\x1b[c",
        b"\x1b[>c",
        b"\x1b[21t",
        b"\x1b]0;owned\x07",
        b"\x1bP$q\x1b\\",
        b"\x1b[?6n",
        b"\x1bc",
        b"\x1b]52;c;AAAA\x1b\\",
    ):
        assert ConsoleFilter().feed(b"a" + request + b"b") == b"ab", request


def test_a_full_screen_program_still_works() -> None:
    for sequence in (b"\x1b[2J", b"\x1b[1;31m", b"\x1b[?1049h", b"\x1b[?25l", b"\x1b[10;20H", b"\x1b[K", b"\x1b7", b"\x1b8"):
        assert ConsoleFilter().feed(sequence) == sequence
