"""Keeps messages in files, one a thing, so that a crash at any moment leaves each of them old or new; what they mean is others'.

A file is one line of JSON (format, type, SHA-256) and the message's bytes. A file that cannot be trusted is set aside under another
name and reported until its thing is told anew: it is never taken for nothing.
"""

import asyncio
import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from agent.reserve import RESERVE_BYTES, Reserve
from kumo.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from kumo.log import get_logger

log = get_logger(__name__)

FORMAT_VERSION = 1

M = TypeVar("M", bound=Message)

_SUFFIX = ".state"
_DAMAGED = ".damaged"
_RESERVE = "reserve"


class StateFiles:
    """Folders of kinds under one directory. Writing happens on one thread, so files change in the order in which it was asked."""

    def __init__(
        self,
        directory: Path,
        format_version: int = FORMAT_VERSION,
        *,
        thread: ThreadPoolExecutor | None = None,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        """`thread`, of one worker, may be shared with others; None: one of its own."""
        self._directory = directory
        self._format_version = format_version
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix="state")
        self._lock = threading.Lock()
        self._problems: dict[Path, str] = {}
        self._reserve = Reserve(directory / _RESERVE, reserve_bytes)

    def load(self, kind: str, message_type: type[M]) -> dict[str, M]:
        """Return what is kept of `kind` by uid. Blocks: for the start of a process.

        Raises FailedPrecondition if a file is of a newer format than this program knows.
        """
        folder = self._folder(kind)
        self._reserve.take()
        found: dict[str, M] = {}
        for path in sorted(folder.iterdir()):
            if path.name.endswith(_DAMAGED):
                self._note(path, f"{path} was set aside as damaged")
            elif path.name.endswith(_SUFFIX):
                try:
                    found[path.name.removesuffix(_SUFFIX)] = self._read(path, message_type)
                except ValueError as error:
                    self._set_aside(path, str(error))
            else:
                path.unlink()  # the unfinished half of a write that was never answered
        return found

    @property
    def problems(self) -> list[str]:
        """What could not be read, one sentence a file."""
        with self._lock:
            return sorted(self._problems.values())

    async def save(self, kind: str, uid: str, message: Message, *, not_after: float | None = None, is_vital: bool = False) -> None:
        """Return when `message` is on the disk. Even when cancelled it waits for the write to end, or memory could not follow the disk.

        `not_after` is a moment of time.monotonic(): what could not be committed by then is dropped, and DeadlineExceeded raised.
        What `is_vital` is written also when nothing is left of the disk but what was kept back for that.
        """
        data = message.SerializeToString(deterministic=True)
        head = {"format": self._format_version, "type": message.DESCRIPTOR.full_name, "sha256": hashlib.sha256(data).hexdigest()}
        path = self._folder(kind) / f"{uid}{_SUFFIX}"
        await self._run(lambda: self._write(path, json.dumps(head).encode() + b"\n" + data, not_after, is_vital=is_vital))

    async def remove(self, kind: str, uid: str) -> None:
        """Return when nothing of `uid` is on the disk."""
        path = self._folder(kind) / f"{uid}{_SUFFIX}"
        await self._run(lambda: self._unlink(path))

    def close(self) -> None:
        self._thread.shutdown()

    async def _run(self, work: Callable[[], None]) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        future.result()
        if cancelled is not None:
            raise cancelled

    def _folder(self, kind: str) -> Path:
        folder = self._directory / kind
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=0o700)
            _sync_folder(folder.parent)
        return folder

    def _read(self, path: Path, message_type: type[M]) -> M:
        head_line, newline, data = path.read_bytes().partition(b"\n")
        if not newline:
            raise ValueError("its first line does not end")
        head = json.loads(head_line)
        format_version = head.get("format") if isinstance(head, dict) else None
        if not isinstance(format_version, int) or format_version < 1:
            raise ValueError("its first line names no format")
        if format_version > self._format_version:
            raise FailedPrecondition(
                "STATE_FORMAT_NEWER",
                f"{path} has format {format_version}, this program knows up to {self._format_version}",
                fix="run the newer program again, or empty the state of this host",
                file=str(path),
            )
        if head.get("type") != message_type.DESCRIPTOR.full_name:
            raise ValueError(f"it holds a {head.get('type')}, not a {message_type.DESCRIPTOR.full_name}")
        if head.get("sha256") != hashlib.sha256(data).hexdigest():
            raise ValueError("its bytes do not match its checksum")
        try:
            return message_type.FromString(data)
        except DecodeError as error:
            raise ValueError("its bytes are no message") from error

    def _set_aside(self, path: Path, why: str) -> None:
        aside = path.with_name(path.name + _DAMAGED)
        path.rename(aside)
        log.error("state file set aside", file=aside, why=why, fix="the leader tells its thing anew; then it is removed")
        self._note(aside, f"{aside} was set aside: {why}")

    def _note(self, path: Path, sentence: str) -> None:
        with self._lock:
            self._problems.setdefault(path, sentence)

    def _write(self, path: Path, content: bytes, not_after: float | None, *, is_vital: bool) -> None:
        fresh = path.with_name(f".{path.name}.new")
        try:
            self._write_fresh(fresh, content, is_vital=is_vital)
            if not_after is not None and time.monotonic() > not_after:
                raise DeadlineExceeded("COMMIT_LATE", f"{path} could not be written before the deadline of the command")
            fresh.rename(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise Unavailable("STATE_NOT_WRITTEN", f"{path}: {error.strerror}", fix="look at the host's disk", file=str(path)) from error
        self._forget_damage(path)
        self._reserve.take()

    def _write_fresh(self, fresh: Path, content: bytes, *, is_vital: bool) -> None:
        while True:
            try:
                with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                return
            except OSError as error:
                # Half of it would take room until the next start.
                with suppress(OSError):
                    fresh.unlink()
                if error.errno != errno.ENOSPC or not is_vital or not self._reserve.give():
                    raise

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            raise Unavailable("STATE_NOT_WRITTEN", f"{path}: {error.strerror}", fix="look at the host's disk", file=str(path)) from error
        self._forget_damage(path)

    def _forget_damage(self, path: Path) -> None:
        aside = path.with_name(path.name + _DAMAGED)
        with self._lock:
            if self._problems.pop(aside, None) is not None:
                aside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
