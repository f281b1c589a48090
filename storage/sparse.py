"""Reads sparse files: where the next data is, and whether a piece of it is nothing but zeros."""

import os

_ZEROS = bytes(4 << 20)


def next_data(descriptor: int, offset: int) -> int:
    """Return where the next data is at or after `offset`; the end of the file if there is none."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError:
        return os.fstat(descriptor).st_size


def is_zeros(data: bytes) -> bool:
    return data == (_ZEROS if len(data) == len(_ZEROS) else bytes(len(data)))
