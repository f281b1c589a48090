"""What may reach a terminal: text of guests, names and servers with its control sequences made harmless; colour; progress marks.

A terminal obeys what it is sent: it can be renamed, made to type, or to answer. So nothing that came over the wire is written to
one as it is.
"""

import codecs
import os
import re
import sys
from typing import TextIO

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# What an interactive console may send: movement, erasing, scrolling regions, colours and the usual private modes.
_HARMLESS_CSI = frozenset("ABCDEFGHJKLMPSTXZ@`adefgmr")
_HARMLESS_MODES = frozenset({"1", "3", "4", "5", "6", "7", "12", "20", "25", "47", "1047", "1048", "1049", "2004"})


def harmless(text: str) -> str:
    """Return `text` with every control character but tab and newline written as an escape such as \\x1b."""
    return _CONTROL.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class LogFilter:
    """Makes the bytes of a console log harmless, piece by piece: colours and movement go, the text stays."""

    def __init__(self) -> None:
        self._screen = ConsoleFilter(plain=True)

    def feed(self, data: bytes) -> bytes:
        return self._screen.feed(data)


class ConsoleFilter:
    """Lets through of a console what a full-screen program needs, and drops what could act on the user's terminal.

    Dropped: OSC, DCS, APC, PM and SOS strings (titles, clipboard, key definitions), requests that make a terminal answer as if the
    user typed (DA, DSR, window reports), resets, and 8-bit controls, also as UTF-8 has them; bytes that are no UTF-8 become U+FFFD.
    With `plain`, every sequence is dropped. State is kept between pieces, since a sequence may be cut anywhere.
    """

    def __init__(self, plain: bool = False) -> None:
        self._plain = plain
        self._state = "text"
        self._sequence = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> bytes:
        out = bytearray()
        for character in self._decoder.decode(data):
            if character < "\x80":
                self._step(ord(character), out)
            elif self._state == "text" and not _CONTROL.match(character):
                out += character.encode()
            elif self._state in ("csi", "escape", "charset"):
                self._state = "text"
        return bytes(out)

    def _step(self, byte: int, out: bytearray) -> None:
        match self._state:
            case "text":
                self._text(byte, out)
            case "escape":
                self._escape(byte, out)
            case "csi":
                self._csi(byte, out)
            case "charset":
                self._state = "text"
            case _:
                self._string(byte)

    def _text(self, byte: int, out: bytearray) -> None:
        if byte == 0x1B:
            self._state = "escape"
        elif (byte >= 0x20 and byte != 0x7F) or byte in (0x09, 0x0A) or (byte in (0x07, 0x08, 0x0D) and not self._plain):
            out.append(byte)

    def _escape(self, byte: int, out: bytearray) -> None:
        self._state = "text"
        if byte == 0x5B:
            self._state, self._sequence = "csi", bytearray()
        elif byte in b"]PX^_":
            self._state = "string"
        elif byte in b"()*+-./#%":
            self._state = "charset"
        elif byte in b"78DEM=>" and not self._plain:
            out += bytes((0x1B, byte))

    def _csi(self, byte: int, out: bytearray) -> None:
        if 0x40 <= byte <= 0x7E:
            self._state = "text"
            if not self._plain and self._lets_through(chr(byte)):
                out += b"\x1b[" + self._sequence + bytes((byte,))
        elif 0x20 <= byte <= 0x3F and len(self._sequence) < 64:
            self._sequence.append(byte)
        elif byte == 0x1B:
            self._state = "escape"
        elif byte < 0x20 or byte > 0x7E:
            self._state = "text"

    def _lets_through(self, final: str) -> bool:
        parameters = self._sequence.decode("ascii")
        if final in "hl":
            return parameters.startswith("?") and set(parameters[1:].split(";")) <= _HARMLESS_MODES
        return final in _HARMLESS_CSI and not parameters.startswith((">", "<", "=", "?")) and not set(parameters) & set(" !\"#$%&'*+,-./")

    def _string(self, byte: int) -> None:
        # A string ends with BEL or ESC \; a lone ESC begins something new, so it is never shown either.
        if byte in (0x07, 0x18, 0x1A):
            self._state = "text"
        elif byte == 0x1B:
            self._state = "string-escape"
        elif self._state == "string-escape":
            self._state = "text" if byte == 0x5C else "string"


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def styled(text: str, style: str, stream: TextIO) -> str:
    """Return `text` in a colour where `stream` is a terminal and NO_COLOR is unset. Styles: green, red, yellow, dim, bold."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    codes = {"green": "32", "red": "31", "yellow": "33", "dim": "2", "bold": "1"}
    return f"\x1b[{codes[style]}m{text}\x1b[0m"


def say(text: str) -> None:
    """Write a line of words to stderr; data goes to stdout."""
    print(text, file=sys.stderr, flush=True)
