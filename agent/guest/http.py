"""Reads HTTP requests of guests and writes answers. Pure: bytes in, values out. Nothing a guest sends makes it raise or grow."""

import string
from dataclasses import dataclass, field
from enum import Enum

MOST_HEAD_BYTES = 4096
MOST_BODY_BYTES = 4096
_MOST_HEADERS = 64
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~" + string.ascii_letters.encode() + string.digits.encode())

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Progress(Enum):
    """What there is instead of a request."""

    MORE = "more is to come"
    MALFORMED = "no request"
    TOO_LARGE = "more than is taken"


@dataclass(frozen=True)
class Request:
    """One request. The path has no query, header names are lower case; the body is read and passed over."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    code: int
    body: bytes = b""
    kind: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()


def read(data: bytes) -> Request | Progress:
    """Return the request that `data` begins with, or what is missing or wrong."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if len(head) > MOST_HEAD_BYTES:
        return Progress.TOO_LARGE
    if not end:
        return Progress.MORE
    lines = head.split(b"\r\n")
    request_line = lines[0].split(b" ")
    if len(request_line) != 3 or request_line[2] not in (b"HTTP/1.0", b"HTTP/1.1") or len(lines) > _MOST_HEADERS:
        return Progress.MALFORMED
    method, target, _ = request_line
    headers = _headers(lines[1:])
    if not _is_token(method) or not _is_printable(target) or not target.startswith(b"/") or headers is None:
        return Progress.MALFORMED
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not (length.isascii() and length.isdigit() and len(length) <= 9):
        return Progress.MALFORMED
    if int(length) > MOST_BODY_BYTES:
        return Progress.TOO_LARGE
    if len(rest) < int(length):
        return Progress.MORE
    return Request(method.decode(), target.partition(b"?")[0].decode(), headers)


def _headers(lines: list[bytes]) -> dict[str, str] | None:
    """Return the headers, or None if a line is none or a length is said twice."""
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _is_token(name):
            return None
        key = name.decode().lower()
        if key == "content-length" and key in found:
            return None
        found[key] = value.strip(b" \t").decode("latin-1")
    return found


def _is_token(data: bytes) -> bool:
    return 0 < len(data) <= 64 and all(byte in _TOKEN for byte in data)


def _is_printable(data: bytes) -> bool:
    return all(33 <= byte < 127 for byte in data)


def write(response: Response) -> bytes:
    """Return the bytes of an answer, after which the connection ends."""
    headers = (
        ("Server", "kumo"),
        ("Content-Type", response.kind),
        ("Content-Length", str(len(response.body))),
        ("Connection", "close"),
        *response.headers,
    )
    lines = [f"HTTP/1.1 {response.code} {_REASONS[response.code]}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + response.body
