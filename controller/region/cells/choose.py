"""Decides which cell a thing goes to: by what it can reach first, then by who has refused it, then by the digest of its hosts.

The digest may be stale: a cell that has no room says so itself, and then the next one is asked. Where only one cell is left, it is
asked even if it seems full, since it keeps what it cannot place yet and places it by itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Host:
    """What a cell last said of one of its hosts."""

    is_up: bool
    free_vcpus: int
    free_memory_mib: int


@dataclass(frozen=True)
class Cell:
    """What the region knows of one cell."""

    name: str
    is_heard: bool
    hosts: tuple[Host, ...] = ()

    def places_for(self, vcpus: int, memory_mib: int) -> int:
        """How many more of this size the hosts that are up could take, each by itself."""
        return sum(_fits(host, vcpus, memory_mib) for host in self.hosts if host.is_up)


@dataclass(frozen=True)
class Wish:
    """What a thing asks of its cell. `cells` are those that reach everything it needs, one set for each need; an empty set means all."""

    vcpus: int = 0
    memory_mib: int = 0
    cells: tuple[frozenset[str], ...] = ()
    refused_by: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """The cell that was chosen, or none; `turned_down` says why each of the others was not considered, by cell."""

    cell: str | None
    turned_down: dict[str, str] = field(default_factory=dict)


def choose(wish: Wish, cells: Iterable[Cell]) -> Choice:
    """Return the cell with the most places for `wish`; among equals the first by name."""
    turned_down: dict[str, str] = {}
    left: list[Cell] = []
    for cell in cells:
        why = _why_not(wish, cell)
        if why:
            turned_down[cell.name] = why
        else:
            left.append(cell)
    if not left:
        return Choice(None, turned_down)
    return Choice(_best(wish, left).name, turned_down)


def _why_not(wish: Wish, cell: Cell) -> str:
    if any(reach and cell.name not in reach for reach in wish.cells):
        return "UNREACHED"
    if cell.name in wish.refused_by:
        return "REFUSED"
    return "" if cell.is_heard else "SILENT"


def _best(wish: Wish, cells: Sequence[Cell]) -> Cell:
    return min(cells, key=lambda cell: (-cell.places_for(wish.vcpus, wish.memory_mib), cell.name))


def _fits(host: Host, vcpus: int, memory_mib: int) -> int:
    rooms = [free // asked for free, asked in ((host.free_vcpus, vcpus), (host.free_memory_mib, memory_mib)) if asked > 0]
    return max(0, min(rooms)) if rooms else 1
