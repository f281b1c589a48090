"""Writes files and directories with an owner and a mode, atomically. Only root can give things away: all that others make is theirs."""

import os
from pathlib import Path


def make_directory(path: Path, owner: int = 0, mode: int = 0o755) -> Path:
    """Make `path`, or put owner and mode of an existing one right; the parents must exist."""
    path.mkdir(exist_ok=True)
    if not os.geteuid():
        os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def write(path: Path, content: str | bytes, owner: int = 0, mode: int = 0o644) -> None:
    """Write beside `path` and rename, so that a reader never sees half a file and a crash leaves the old one."""
    fresh = path.with_name(path.name + ".new")
    data = content.encode() if isinstance(content, str) else content
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, mode)
        if not os.geteuid():
            os.fchown(descriptor, owner, owner)
    fresh.replace(path)
