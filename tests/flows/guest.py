"""A root shell in a guest, over its serial console and through the API, as `kumo server console` has it."""

import contextlib
import queue
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import grpc

from cli.client import Client, Stream
from cli.contexts import load
from kumo.api.compute.v1.server_pb2 import AttachConsoleRequest, AttachConsoleResponse, ReadConsoleLogRequest, ReadConsoleLogResponse

ANSWER_S = 60.0


class Reachable(Protocol):
    """A lab whose API this process can reach."""

    def context(self) -> Path:
        """Return the file by which a client finds it."""


class Shell:
    """Runs commands in one guest, one at a time."""

    def __init__(self, client: Client, name: str) -> None:
        self._typed: queue.Queue[bytes | None] = queue.Queue()
        self._printed = b""
        self._news = threading.Condition()
        self._ended: Exception | None = None
        self._stream = client.duplex("kumo.api.compute.v1.Servers/AttachConsole", self._requests(name), AttachConsoleResponse)
        self._reader = threading.Thread(target=self._read, args=(self._stream,), daemon=True)
        self._reader.start()

    def _requests(self, name: str) -> Iterator[AttachConsoleRequest]:
        yield AttachConsoleRequest(name=name)
        while (data := self._typed.get()) is not None:
            yield AttachConsoleRequest(input=data)

    def _read(self, stream: Stream[AttachConsoleResponse]) -> None:
        try:
            for piece in stream:
                with self._news:
                    self._printed += piece.output
                    self._news.notify_all()
        except grpc.RpcError as error:
            with self._news:
                self._ended = error
                self._news.notify_all()

    def run(self, command: str, limit_s: float = ANSWER_S) -> str:
        """Run one command and return what it printed. Raises AssertionError when it fails or does not end in time."""
        code, output = self.attempt(command, limit_s)
        assert code == 0, f"{command}: exit {code}\n{output}"
        return output

    def succeeds(self, command: str, limit_s: float = ANSWER_S) -> bool:
        return self.attempt(command, limit_s)[0] == 0

    def attempt(self, command: str, limit_s: float = ANSWER_S) -> tuple[int, str]:
        """Run one command and return its exit status and what it printed."""
        mark = uuid.uuid4().hex[:12]
        # The console echoes what is typed, so the marks are written in a way that their own echo does not match.
        line = f"echo BEG''IN{mark}; ( {command} ) 2>&1; echo \"E''ND{mark} $?\" | tr -d \"'\"\n"
        with self._news:
            self._printed = b""
        self._typed.put(line.encode())
        pattern = re.compile(rf"BEGIN{mark}\r?\n(.*?)END{mark} (\d+)\r?\n".encode(), re.DOTALL)
        end = time.monotonic() + limit_s
        with self._news:
            while not (found := pattern.search(self._printed)):
                left = end - time.monotonic()
                assert self._ended is None, f"the console ended: {self._ended}"
                assert left > 0, f"{command}: no end within {limit_s:.0f} s; printed {self._printed[-2000:]!r}"
                self._news.wait(left)
        return int(found[2]), found[1].decode(errors="replace").replace("\r\n", "\n")

    def close(self) -> None:
        self._typed.put(None)
        self._stream.cancel()
        self._reader.join(5)


@contextlib.contextmanager
def shell(lab: Reachable, server: str) -> Iterator[Shell]:
    """Attach to a server whose guest has said that it is ready."""
    client = Client(load(lab.context()).known["local"])
    opened = Shell(client, f"projects/default/servers/{server}")
    try:
        yield opened
    finally:
        opened.close()
        client.close()


def console_log(lab: Reachable, server: str) -> str:
    """Return what the serial console of a server has printed."""
    client = Client(load(lab.context()).known["local"])
    try:
        request = ReadConsoleLogRequest(name=f"projects/default/servers/{server}")
        pieces = client.stream("kumo.api.compute.v1.Servers/ReadConsoleLog", request, ReadConsoleLogResponse, timeout_s=20)
        return b"".join(piece.output for piece in pieces).decode(errors="replace")
    finally:
        client.close()
