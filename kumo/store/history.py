"""Keeps the last steps of one table, for those who follow it: each follower is only a place in here, and may fall off the end."""

from collections import deque

from kumo.store.replica import Step
from kumo.store.token import Position

_MOST_STEPS = 10_000
_MOST_BYTES = 8 << 20
_STEP_BYTES = 200


class FellBehind(Exception):
    """The position is older than what is kept."""


class History:
    """Steps in order. `floor` is the revision after which none is missing."""

    def __init__(self, floor: int, *, most_steps: int = _MOST_STEPS, most_bytes: int = _MOST_BYTES) -> None:
        self.floor = floor
        self._steps: deque[Step] = deque()
        self._first = 0
        self._bytes = 0
        self._most_steps, self._most_bytes = most_steps, most_bytes

    def append(self, step: Step) -> None:
        self._steps.append(step)
        self._bytes += _size(step)
        while len(self._steps) > self._most_steps or self._bytes > self._most_bytes:
            dropped = self._steps.popleft()
            self._first += 1
            self._bytes -= _size(dropped)
            self.floor = dropped.revision

    @property
    def end(self) -> int:
        """The number that the next step will have."""
        return self._first + len(self._steps)

    def number_after(self, position: Position) -> int:
        """Return the number of the first step that `position` has not seen whole.

        Raises FellBehind if steps are missing, or if it lies inside a gap that was bridged in one step.
        """
        if position.revision < self.floor:
            raise FellBehind
        low, high = 0, len(self._steps)
        while low < high:
            middle = (low + high) // 2
            if self._steps[middle].revision <= position.revision:
                low = middle + 1
            else:
                high = middle
        if low < len(self._steps) and self._steps[low].is_bridge and position.revision > self._steps[low].since:
            raise FellBehind
        return self._first + low

    def step(self, number: int) -> Step:
        """Raises FellBehind if it is kept no more."""
        if number < self._first:
            raise FellBehind
        return self._steps[number - self._first]


def _size(step: Step) -> int:
    entries = [entry for delta in step.deltas for entry in (delta.before, delta.after) if entry is not None]
    return _STEP_BYTES + sum(entry.size() for entry in entries)
