"""Follows a resource until it is where it shall be, with a line a step and its time; resumes over lost connections without a gap."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from cli.advice import short
from cli.client import failure
from cli.failure import Exit, Failure
from cli.nouns import Noun
from cli.progress import Progress, condition_type, progress
from cli.session import Session, message_of
from cli.terminal import is_terminal, say, styled

CHANGE_SYNCED, CHANGE_DELETED = 2, 5
_TOO_LATE = "TOO_LATE"
_RETRY_S = (0.2, 0.5, 1.0, 2.0)


def changes(
    session: Session, noun: Noun, *, parent: str, query: str, token: str, deadline: float | None, on_cut: Callable[[], None]
) -> Iterator[Any]:
    """Yield watch responses, re-opening the stream at the last token when the server goes away.

    Raises Failure when `deadline` (monotonic seconds) passes or the server refuses.
    """
    request = message_of(noun, f"Watch{noun.plural.capitalize()}Request")(resume_token=token, filter=query)
    if parent:
        request.parent = parent
    attempt = 0
    while True:
        left = None if deadline is None else max(0.05, deadline - time.monotonic())
        try:
            stream = session.client.stream(
                noun.method("Watch", many=True), request, message_of(noun, f"Watch{noun.plural.capitalize()}Response"), timeout_s=left
            )
            for change in stream:
                attempt = 0
                request.resume_token = change.resume_token or request.resume_token
                yield change
        except grpc.RpcError as error:
            if deadline is not None and time.monotonic() >= deadline:
                raise Failure(
                    f"gave up waiting for {noun.plural}",
                    "the time given with --timeout is over",
                    "wait longer with --timeout, or look: kumo event list",
                    Exit.UNAVAILABLE,
                    _TOO_LATE,
                ) from error
            if not isinstance(error, grpc.Call) or error.code() not in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.CANCELLED,
            ):
                raise failure(error, f"watch {noun.plural}", session.client.context) from error
        if attempt == 0:
            on_cut()
        time.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
        attempt += 1


def follow(session: Session, noun: Noun, name: str, until: str, timeout_s: float) -> Any:
    """Show the steps of `name` until it is `until` (or gone, with `deleted`); return its last version. Raises Failure."""
    condition_type(noun, until)
    steps = Steps(noun, name)
    parent = "/".join(name.split("/")[:-2])
    deadline = time.monotonic() + timeout_s
    resource, first = None, True
    try:
        for change in changes(session, noun, parent=parent, query=f'name = "{name}"', token="", deadline=deadline, on_cut=steps.cut):
            if change.kind == CHANGE_DELETED or (change.kind == CHANGE_SYNCED and resource is None):
                return _gone(noun, name, until, resource)
            if change.kind == CHANGE_SYNCED:
                continue
            resource = getattr(change, noun.singular)
            if until == "deleted":
                continue
            now = progress(noun, resource, until)
            if first and resource.generation > 1:
                steps.skip(now)
            first = False
            steps.show(now)
            if now.failure is not None:
                raise now.failure
            if now.reached:
                return resource
    except KeyboardInterrupt:
        steps.end()
        say(f"Stopped waiting; the work goes on. To follow it again: kumo {noun.singular} wait {name.rsplit('/', 1)[-1]} --for={until}")
        raise
    except Failure as ended:
        if ended.reason != _TOO_LATE:
            raise
        now = progress(noun, resource, until) if resource is not None else Progress()
        raise Failure(
            f"{short(name)} is not {until} after {timeout_s:g} s, and goes on",
            now.obstacle or ended.because,
            now.fix or f"wait longer with --timeout, or look: kumo event list --for {short(name)}",
            Exit.NO_CAPACITY if now.obstacle and now.waiting_for == "Placed" else Exit.UNAVAILABLE,
            ended.reason,
        ) from ended
    finally:
        steps.end()
    raise AssertionError("a watch without an end ended")


def _gone(noun: Noun, name: str, until: str, resource: Any) -> Any:
    if until == "deleted":
        return resource
    raise Failure(
        f'there is no {noun.singular} "{name.rsplit("/", 1)[-1]}"',
        "it was deleted, or never was",
        f"kumo {noun.singular} list",
        Exit.NOT_FOUND,
    )


class Steps:
    """Prints steps as they are done, to stderr; on a terminal the present one is shown while it lasts."""

    def __init__(self, noun: Noun, name: str) -> None:
        self._noun, self._name = noun, name
        self._started = self._last = time.monotonic()
        self._printed: set[str] = set()
        self._told: set[str] = set()
        self._live = is_terminal(sys.stderr)
        self._pending = ""

    def show(self, now: Progress) -> None:
        for step in now.done_steps:
            if step not in self._printed:
                self._printed.add(step)
                self._line(f"{styled('✓', 'green', sys.stderr)} {words(step)} {self._lap()}")
        # What mends itself in a moment has no fix and is not worth a line, nor is that a guest takes its time to boot.
        if now.obstacle and now.fix and now.obstacle not in self._told and now.waiting_for != "GuestReady":
            self._told.add(now.obstacle)
            self._line(f"{styled('!', 'yellow', sys.stderr)} waiting: {now.obstacle}")
        if now.waiting_for and self._live:
            self._pending = f"… {words(now.waiting_for)}"
            sys.stderr.write(f"\r\x1b[K{self._pending}")
            sys.stderr.flush()

    def skip(self, now: Progress) -> None:
        """Take what is done already as old: it was a change of something that had been made before."""
        self._printed.update(now.done_steps)

    def cut(self) -> None:
        self._line("connection lost; going on from where it was")

    def end(self) -> None:
        if self._pending:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._pending = ""

    def _line(self, text: str) -> None:
        self.end()
        say(text)

    def _lap(self) -> str:
        now = time.monotonic()
        lap, self._last = now - self._last, now
        return styled(f"{lap:.1f} s", "dim", sys.stderr)


def words(step: str) -> str:
    """Return a condition's type as words, e.g. `disk ready`."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in step).strip()
