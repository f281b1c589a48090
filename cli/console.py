"""The serial console in the user's terminal, and the console log; what guests print is made harmless on the way."""

import contextlib
import os
import queue
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Any

import grpc

from cli.client import Stream, failure
from cli.failure import Exit, Failure
from cli.nouns import NOUNS
from cli.session import Session, message_of
from cli.terminal import ConsoleFilter, LogFilter, say

NOUN = NOUNS["server"]
_ESCAPE = b"\x1d"  # Ctrl-], as telnet and virsh have it


def print_log(session: Session, name: str, *, follow: bool, tail_bytes: int, raw: bool) -> None:
    """Stream the console log to stdout. On a terminal, and without `raw`, control sequences are taken out."""
    if raw and sys.stdout.isatty():
        raise Failure(
            "a terminal must not be sent raw guest output",
            "--raw was given and stdout is a terminal",
            "kumo server console-log NAME --raw > file",
            Exit.USAGE,
        )
    clean = LogFilter()
    request = message_of(NOUN, "ReadConsoleLogRequest")(name=name, follow=follow, tail_bytes=tail_bytes)
    try:
        for piece in session.client.stream(
            f"{NOUN.service}/ReadConsoleLog",
            request,
            message_of(NOUN, "ReadConsoleLogResponse"),
            timeout_s=None if follow else session.client.timeout_s,
        ):
            sys.stdout.buffer.write(piece.output if raw else clean.feed(piece.output))
            sys.stdout.buffer.flush()
    except grpc.RpcError as error:
        raise failure(error, f'read the console log of "{name.rsplit("/", 1)[-1]}"', session.client.context) from error


def attach(session: Session, name: str) -> None:
    """Connect the terminal, or a pipe, with the serial console until Ctrl-], the end of input, or the end of the console."""
    typed: queue.Queue[bytes | None] = queue.Queue(maxsize=256)
    request = message_of(NOUN, "AttachConsoleRequest")

    def requests() -> Iterator[Any]:
        yield request(name=name)
        while (data := typed.get()) is not None:
            yield request(input=data)

    stream = session.client.duplex(f"{NOUN.service}/AttachConsole", requests(), message_of(NOUN, "AttachConsoleResponse"))
    interactive = sys.stdin.isatty()
    if interactive:
        say(f'Attached to "{name.rsplit("/", 1)[-1]}". Ctrl-] leaves.')
    stopped = threading.Event()
    with _raw_terminal() if interactive else contextlib.nullcontext():
        reader = threading.Thread(target=_read_input, args=(typed, stream, stopped, interactive), daemon=True)
        reader.start()
        clean = ConsoleFilter(plain=not sys.stdout.isatty())
        try:
            for piece in stream:
                sys.stdout.buffer.write(clean.feed(piece.output))
                sys.stdout.buffer.flush()
        except grpc.RpcError as error:
            if not (isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.CANCELLED and stopped.is_set()):
                raise failure(error, f'attach to the console of "{name.rsplit("/", 1)[-1]}"', session.client.context) from error
        finally:
            stopped.set()
            typed.put(None)
    if interactive:
        say("\nDetached.")


def _read_input(typed: "queue.Queue[bytes | None]", stream: Stream[Any], stopped: threading.Event, interactive: bool) -> None:
    """Pass on what is typed. Piped input ends the sending, not the reading: the answer is still to come."""
    descriptor = sys.stdin.fileno()
    while not stopped.is_set():
        ready, _, _ = select.select([descriptor], [], [], 0.2)
        if not ready:
            continue
        data = os.read(descriptor, 4096)
        before, leave, _ = data.partition(_ESCAPE) if interactive else (data, b"", b"")
        if before:
            typed.put(before)
        if leave:
            stopped.set()
            stream.cancel()
            return
        if not data:
            typed.put(None)
            return


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
