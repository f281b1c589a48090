"""Whose disk a volume is: the mark beside it, its one form as text, and which mark may follow which. Pure; drivers keep it and compare."""

from dataclasses import dataclass

from kumo.errors import FailedPrecondition, Unavailable

_FORMAT = "1"
_NOBODY = "-"


@dataclass(frozen=True)
class Mark:
    """Whose disk a volume is. Without a server it is nobody's, and the epoch is the least that the next owner must have."""

    server_uid: str = ""
    host: str = ""
    cell_epoch: int = 0
    host_epoch: int = 0

    @property
    def epoch(self) -> tuple[int, int]:
        return self.cell_epoch, self.host_epoch

    @property
    def names_somebody(self) -> bool:
        return self.server_uid != ""

    def same_owner(self, other: "Mark") -> bool:
        """Nobody is nobody, whatever the epoch that was left behind."""
        return self == other if self.names_somebody else not other.names_somebody


def text_of(mark: Mark) -> str:
    """Return the one form of `mark`: compared as text, so the same owner must always be the same text."""
    return " ".join((_FORMAT, str(mark.cell_epoch), str(mark.host_epoch), mark.server_uid or _NOBODY, mark.host or _NOBODY))


def mark_of(text: str) -> Mark:
    """Raises Unavailable if this is not, or not yet, a form that is known."""
    parts = text.split(" ")
    if len(parts) != 5 or parts[0] != _FORMAT or not (parts[1].isdecimal() and parts[2].isdecimal()):
        raise Unavailable(
            "OWNER_UNREADABLE", f"the owner mark of a volume reads {text[:80]!r}, which this program does not know", mark=text[:80]
        )
    server_uid, host = ("" if part == _NOBODY else part for part in parts[3:])
    return Mark(server_uid, host, int(parts[1]), int(parts[2]))


def successor(held: Mark, expected: Mark, wanted: Mark) -> Mark:
    """Return what the mark shall say. Raises FailedPrecondition OWNER_CHANGED with what it says instead of `expected`."""
    if wanted.same_owner(held):
        return held
    if not held.same_owner(expected):
        raise owner_changed(held, "it is not who was expected")
    if not wanted.names_somebody:
        return Mark(cell_epoch=max(held.epoch, wanted.epoch)[0], host_epoch=max(held.epoch, wanted.epoch)[1])
    if wanted.epoch < held.epoch:
        raise owner_changed(held, f"an epoch never goes back to {wanted.cell_epoch}.{wanted.host_epoch}")
    return wanted


def owner_changed(held: Mark, why: str) -> FailedPrecondition:
    who = f"server {held.server_uid} on {held.host}" if held.names_somebody else "nobody"
    return FailedPrecondition(
        "OWNER_CHANGED",
        f"the disk is owned by {who} at epoch {held.cell_epoch}.{held.host_epoch}: {why}",
        held_server_uid=held.server_uid,
        held_host=held.host,
        held_epoch_cell=held.cell_epoch,
        held_epoch_host=held.host_epoch,
    )
