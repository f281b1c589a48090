"""The files that tell libvirt's hook which taps to plug in, and where: one a tap, named after it.

A tap without a file is refused, so a server whose port has no rules in force does not start. One value a line, as the hook has no
time to import a parser.
"""

import os

_FORMAT = "kumo-tap 1"


class Admission:
    """Where the hook puts a tap: the pinned namespace, the bridge in it, and what its guest's frames are like."""

    def __init__(self, plane: str, bridge: str, mac: str, mtu: int) -> None:
        self.plane, self.bridge, self.mac, self.mtu = plane, bridge, mac, mtu

    def text(self) -> str:
        return f"{_FORMAT}\n{self.plane}\n{self.bridge}\n{self.mac}\n{self.mtu}\n"


def put(directory: str, tap: str, admission: Admission) -> None:
    fresh = os.path.join(directory, f".{tap}.new")
    with open(fresh, "w") as file:
        file.write(admission.text())
    os.replace(fresh, os.path.join(directory, tap))


def get(directory: str, tap: str) -> Admission | None:
    """Return None when there is no file, or none that this program understands: nothing is plugged in on a guess."""
    try:
        with open(os.path.join(directory, tap)) as file:
            kind, plane, bridge, mac, mtu = file.read().splitlines()
        return Admission(plane, bridge, mac, int(mtu)) if kind == _FORMAT else None
    except (OSError, ValueError):
        return None


def remove(directory: str, tap: str) -> None:
    path = os.path.join(directory, tap)
    if os.path.exists(path):
        os.unlink(path)


def taps(directory: str) -> set[str]:
    return {name for name in os.listdir(directory) if not name.startswith(".")}
