"""Decides what the region's own part of a record becomes: which cells hold it, and what the region says about that. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kumo.api.cell.v1.cell_pb2 import Verdict
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.api.type.v1.placement_pb2 import Placement, Share

PLACED = "Placed"
_OVER = (Share.REFUSED, Share.ENDED)
_ANSWERS = {Verdict.PLACED: Share.PLACED, Verdict.REFUSED: Share.REFUSED, Verdict.WAITING: Share.WAITING, Verdict.WITHDRAWN: Share.ENDED}


@dataclass(frozen=True)
class Own:
    """The region's own part: `shares` in the order in which cells were told, and the conditions that the region adds."""

    shares: tuple[Share, ...] = ()
    conditions: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, placement: Any) -> "Own":
        """Read it from the placement part of a record, or from None."""
        if placement is None:
            return cls()
        status = placement.status
        return cls(tuple(status.placement.shares), tuple(status.conditions))

    def part(self, record: Any) -> Any:
        """Return a record of the same type that holds nothing but this."""
        part = type(record)()
        part.status.placement.CopyFrom(Placement(shares=self.shares))
        part.status.conditions.extend(self.conditions)
        return part

    @property
    def held(self) -> tuple[Share, ...]:
        """The shares of cells that may have anything of the thing left, those that refused it too."""
        return tuple(share for share in self.shares if share.answer != Share.ENDED)

    @property
    def live(self) -> tuple[Share, ...]:
        """The shares of cells that hold the thing or were told to."""
        return tuple(share for share in self.shares if share.answer not in _OVER)

    def share_of(self, cell: str) -> Share | None:
        """Return the last one, which is what that cell was told last."""
        return next((share for share in reversed(self.shares) if share.cell == cell), None)

    def next_epoch(self) -> int:
        return max((share.epoch for share in self.shares), default=0) + 1

    def given_to(self, cell: str, epoch: int) -> "Own":
        """Return it with one more share, and without what was said of earlier tries.

        What the same cell had before ends with that; what other cells had of a thing with one owner is taken back from them.
        """
        before = tuple(_superseded(share, cell, epoch) for share in self.shares)
        return Own((*before, Share(cell=cell, epoch=epoch)), _without_placed(self.conditions))

    def withdrawn(self, cell: str) -> "Own":
        return self._changed(cell, withdrawn=True)

    def ended(self, cell: str) -> "Own":
        return self._changed(cell, answer=Share.ENDED)

    def saying(self, condition: Condition) -> "Own":
        """Return it with `condition` in place of the one of its type; `since` stays if the reason does."""
        before = next((one for one in self.conditions if one.type == condition.type), None)
        made = Condition()
        made.CopyFrom(condition)
        if before is not None and before.HasField("since") and (before.status, before.reason) == (made.status, made.reason):
            made.since.CopyFrom(before.since)
        return Own(self.shares, (*(one for one in self.conditions if one.type != condition.type), made))

    def told(self, cell: str, verdict: Verdict) -> "Own":
        """Return it after the cell said `verdict`; what it says of an epoch that is not its present one changes nothing."""
        share = self.share_of(cell)
        answer = _ANSWERS.get(verdict.answer)
        if share is None or answer is None or share.epoch != verdict.cell_epoch or not _may_follow(share.answer, answer):
            return self
        changed = self._changed(cell, answer=answer)
        if answer == Share.ENDED:
            return Own(changed.shares, _without_placed(changed.conditions))
        if answer == Share.PLACED:
            # Those that refused it before may forget it now.
            shares = tuple(_with(one, {"withdrawn": True}) if one.answer == Share.REFUSED else one for one in changed.shares)
            return Own(shares, _without_placed(changed.conditions))
        if not verdict.HasField("because"):
            return changed
        because = Condition()
        because.CopyFrom(verdict.because)
        because.type, because.status = PLACED, Condition.FALSE
        return changed.saying(because)

    def _changed(self, cell: str, **fields: Any) -> "Own":
        """Change the last share of `cell`."""
        last = max((index for index, share in enumerate(self.shares) if share.cell == cell), default=-1)
        return Own(tuple(_with(share, fields) if index == last else share for index, share in enumerate(self.shares)), self.conditions)


def _with(share: Share, fields: dict[str, Any]) -> Share:
    changed = Share()
    changed.CopyFrom(share)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _may_follow(before: "Share.Answer.ValueType", after: "Share.Answer.ValueType") -> bool:
    """What was refused is never placed any more, and after an end nothing comes."""
    return before != Share.ENDED and (before != Share.REFUSED or after == Share.ENDED)


def _superseded(share: Share, cell: str, epoch: int) -> Share:
    if share.cell == cell:
        return _with(share, {"answer": Share.ENDED})
    if share.answer in _OVER:
        return share
    return _with(share, {"withdrawn": True}) if epoch else share


def _without_placed(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    return tuple(condition for condition in conditions if condition.type != PLACED)
