"""Tells the agent which servers said that they are ready, from marks that the responder left. Marks outlive both processes."""

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from agent.guest.files import GuestFiles

_IN_MOVED_TO, _IN_CLOEXEC, _IN_NONBLOCK = 0x80, 0o2000000, 0o4000
_EVENT_BYTES = 16


class Inbox:
    """The marks of a host. Times are the wall clock's, as the starts of processes are."""

    def __init__(self, files: GuestFiles) -> None:
        self._directory = files.ready
        self._descriptor = -1

    def ready_time(self, server_uid: str, process_start: datetime) -> datetime | None:
        """Return when the guest of the process that started at `process_start` said that it is ready, or None if it has not."""
        try:
            said = datetime.fromtimestamp((self._directory / server_uid).stat().st_mtime, UTC)
        except FileNotFoundError:
            return None
        return said if said >= process_start else None

    def watch(self, on_ready: Callable[[str], None]) -> None:
        """Call `on_ready` with a server's uid whenever a mark of it appears, until close(). A hint: marks from before are not told."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
        if self._descriptor < 0 or libc.inotify_add_watch(self._descriptor, str(self._directory).encode(), _IN_MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {self._directory}")
        asyncio.get_running_loop().add_reader(self._descriptor, self._read, on_ready)

    def close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self, on_ready: Callable[[str], None]) -> None:
        try:
            data = os.read(self._descriptor, 1 << 16)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return
            raise
        at = 0
        while at + _EVENT_BYTES <= len(data):
            length = int.from_bytes(data[at + 12 : at + 16], "little")
            name = data[at + _EVENT_BYTES : at + _EVENT_BYTES + length].rstrip(b"\0").decode(errors="replace")
            on_ready(Path(name).name)
            at += _EVENT_BYTES + length
