"""The files that tell libvirt's hook which taps to plug in, and where: one a tap, named after it. Standard library only.

A tap without a file is refused, so a server whose port has no rules in force does not start.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

_FORMAT = 1
_SUFFIX = ".json"


@dataclass(frozen=True)
class Admission:
    """Where the hook puts a tap: the pinned namespace, the bridge in it, and what its guest's frames are like."""

    plane: str
    bridge: str
    mac: str
    mtu: int


def _path(directory: Path, tap: str) -> Path:
    return directory / f"{tap}{_SUFFIX}"


def put(directory: Path, tap: str, admission: Admission) -> None:
    fresh = directory / f".{tap}.new"
    fresh.write_text(json.dumps({"format": _FORMAT, **asdict(admission)}))
    os.replace(fresh, _path(directory, tap))


def get(directory: Path, tap: str) -> Admission | None:
    """Return None when there is no file, or none that this program understands: nothing is plugged in on a guess."""
    try:
        kept = json.loads(_path(directory, tap).read_text())
        if kept.pop("format") != _FORMAT:
            return None
        return Admission(**kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remove(directory: Path, tap: str) -> None:
    _path(directory, tap).unlink(missing_ok=True)


def taps(directory: Path) -> set[str]:
    return {path.name.removesuffix(_SUFFIX) for path in directory.glob(f"*{_SUFFIX}")}
