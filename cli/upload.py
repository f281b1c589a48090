"""Sends a file to an image, from where the server says it has got; goes on by itself over lost connections. Shows progress."""

import queue
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from cli.client import failure
from cli.failure import Failure
from cli.nouns import Noun
from cli.session import Session, message_of
from cli.table import size
from cli.terminal import is_terminal, say

_PIECE_BYTES = 1 << 20
_TRIES = 5


def upload_file(session: Session, noun: Noun, name: str, file: Path) -> None:
    """Upload `file`, whole, whatever is there already. Raises Failure when it is refused, or cut five times without any gain."""
    total = file.stat().st_size
    shown = _Shown(total)
    tries, best = 0, -1
    while True:
        try:
            _once(session, noun, name, file, shown)
            shown.end(f"uploaded {size(total)}")
            return
        except grpc.RpcError as error:
            tries = 0 if shown.received > best else tries + 1
            best = max(best, shown.received)
            cut = isinstance(error, grpc.Call) and error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            if not cut or tries >= _TRIES:
                shown.end("")
                told = failure(error, f'upload "{file.name}"', session.client.context)
                again = f"kumo image upload {name.rsplit('/', 1)[-1]} --file {file}" if cut else told.fix
                raise Failure(told.what, told.because, again, told.exit, told.reason) from error
            time.sleep(0.5 * 2**tries)


def _once(session: Session, noun: Noun, name: str, file: Path, shown: "_Shown") -> None:
    start: queue.Queue[int | None] = queue.Queue(maxsize=1)
    request = message_of(noun, "UploadImageRequest")

    def requests() -> Iterator[Any]:
        yield request(name=name)
        offset = start.get()
        if offset is None:
            return
        with file.open("rb") as stream:
            stream.seek(offset)
            while piece := stream.read(_PIECE_BYTES):
                yield request(offset=offset, data=piece)
                offset += len(piece)

    answers = session.client.duplex(f"{noun.service}/UploadImage", requests(), message_of(noun, "UploadImageResponse"))
    first = True
    try:
        for answer in answers:
            if first:
                start.put(answer.received_bytes)
                first = False
            shown.show(answer.received_bytes)
    finally:
        if first:
            start.put(None)


class _Shown:
    """A line of progress on a terminal; nothing but the last word elsewhere."""

    def __init__(self, total: int) -> None:
        self.received = 0
        self._total = total
        self._started = time.monotonic()
        self._live = is_terminal(sys.stderr)

    def show(self, received: int) -> None:
        self.received = received
        if self._live:
            rate = received / max(0.001, time.monotonic() - self._started)
            sys.stderr.write(
                f"\r\x1b[K… uploading {100 * received // self._total:3d} %  {size(received)} of {size(self._total)}  {size(int(rate))}/s"
            )
            sys.stderr.flush()

    def end(self, text: str) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        if text:
            say(f"✓ {text} {time.monotonic() - self._started:.1f} s")
