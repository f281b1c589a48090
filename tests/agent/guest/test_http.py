"""Requests of guests are read whole or refused, whatever they hold."""

from hypothesis import given
from hypothesis import strategies as st

from agent.guest import http
from agent.guest.http import Progress, Request, Response

GOOD = b"GET /latest/meta-data/?x=1 HTTP/1.1\r\nHost: 169.254.169.254\r\nX-One: two\r\n\r\n"


def test_a_request_is_read() -> None:
    found = http.read(GOOD)
    assert found == Request("GET", "/latest/meta-data/", {"host": "169.254.169.254", "x-one": "two"})


@given(cut=st.integers(0, len(GOOD) - 1))
def test_every_part_of_a_request_waits_for_the_rest(cut: int) -> None:
    assert http.read(GOOD[:cut]) is Progress.MORE


def test_a_body_is_waited_for_and_bounded() -> None:
    head = b"PUT /kumo/v1/ready HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
    assert http.read(head % 5 + b"1234") is Progress.MORE
    assert isinstance(http.read(head % 5 + b"12345"), Request)
    assert http.read(head % (http.MOST_BODY_BYTES + 1)) is Progress.TOO_LARGE
    assert http.read(b"GET /" + b"a" * http.MOST_HEAD_BYTES) is Progress.TOO_LARGE


def test_what_proxies_disagree_about_is_refused() -> None:
    for lines in (
        b"Transfer-Encoding: chunked",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Content-Length: +1",
        b"Content-Length: 1e1",
        b"Bad Header: x",
        b" folded: x",
        b"nocolon",
    ):
        assert http.read(b"GET / HTTP/1.1\r\n" + lines + b"\r\n\r\n") is Progress.MALFORMED, lines
    for line in (b"GET /", b"GET  / HTTP/1.1", b"GET http://x/ HTTP/1.1", b"GET / HTTP/2", b"G T / HTTP/1.1", b"GET /\x7f HTTP/1.1"):
        assert http.read(line + b"\r\n\r\n") is Progress.MALFORMED, line


@given(data=st.binary(max_size=500) | st.binary(max_size=200).map(lambda tail: b"GET / HTTP/1.1\r\n" + tail + b"\r\n\r\n"))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    found = http.read(data)
    if isinstance(found, Request):
        assert found.path.startswith("/") and found.path.isascii()


def test_an_answer_says_its_length_and_ends_the_connection() -> None:
    written = http.write(Response(200, b"hello", headers=(("X-A", "b"),)))
    head, _, body = written.partition(b"\r\n\r\n")
    assert body == b"hello"
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 5" in head and b"Connection: close" in head and b"X-A: b" in head
