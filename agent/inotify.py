"""Tells of changes in one directory, by the kernel's inotify; what they mean is others'."""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

_IN_MODIFY, _IN_CLOSE_WRITE, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x2, 0x8, 0x80, 0x100, 0x200
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 * 1024


class DirectoryWatch:
    """Calls `on_change` in the event loop with the name of whatever is made, written, moved in or removed, until close()."""

    def __init__(self, directory: Path, on_change: Callable[[str], None]) -> None:
        """Needs a running loop. Raises OSError if the directory cannot be watched."""
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1 failed")
        mask = _IN_MODIFY | _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
        if libc.inotify_add_watch(self._descriptor, os.fsencode(directory), mask) < 0:
            number = ctypes.get_errno()
            os.close(self._descriptor)
            raise OSError(number, f"cannot watch {directory}: {os.strerror(number)}")
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        names: dict[str, None] = {}
        offset = 0
        while offset < len(data):
            _, _, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            names[data[offset : offset + length].rstrip(b"\0").decode(errors="replace")] = None
            offset += length
        for name in names:
            self._on_change(name)
