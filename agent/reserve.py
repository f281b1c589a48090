"""Keeps a little of the disk back for what must be written when nothing else is left of it; what that is, its user decides.

Without it a full disk would shut out the next leader, whose term has to be kept before it is obeyed, and what makes room again could
not be ordered.
"""

import os
from contextlib import suppress
from pathlib import Path

_PIECE_BYTES = 16 << 10
RESERVE_BYTES = 64 * _PIECE_BYTES


class Reserve:
    """A file that takes room. All methods block, and belong to one thread."""

    def __init__(self, path: Path, size_bytes: int = RESERVE_BYTES) -> None:
        """`size_bytes` 0: nothing is kept back."""
        self._path, self._size_bytes = path, size_bytes
        self._is_whole = size_bytes == 0

    def take(self) -> None:
        """Have the file be whole, if there is room for it now."""
        if self._is_whole:
            return
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size_bytes)
                self._is_whole = True
            finally:
                os.close(descriptor)

    def give(self) -> bool:
        """Free a piece for one small file; return whether there was one."""
        with suppress(OSError):
            left = self._path.stat().st_size - _PIECE_BYTES
            if left >= 0:
                self._is_whole = False
                os.truncate(self._path, left)
                return True
        return False
