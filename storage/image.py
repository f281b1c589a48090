"""What an image is in a pool, whatever keeps it, and one attempt at writing it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Image:
    """An image that volumes can be cloned from: the SHA-256 and size of the file it came from, and the size of the disk."""

    uid: str
    sha256: str
    file_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class Import:
    """One attempt, by that name, at writing an image from a raw file. `progress` is told bytes passed, from the thread that writes."""

    image: Image
    path: Path
    attempt: str
    progress: Callable[[int], None]
    stop: threading.Event


class Cancelled(Exception):
    """What was copied or imported was told to stop."""
