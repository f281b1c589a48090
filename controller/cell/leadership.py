"""What works only while this process leads its cell, and what answers NOT_LEADER at every other time."""

from dataclasses import dataclass

from controller.cell.cell import Cell
from controller.cell.facts import FactFeed
from controller.cell.orders import Orders
from controller.cell.wakes import Loops
from kumo.errors import FailedPrecondition, Unavailable
from kumo.store.election import Election


@dataclass(frozen=True)
class Term:
    """All that one term works with."""

    cell: Cell
    orders: Orders
    feed: FactFeed
    loops: Loops


class Leadership:
    """Hands out the present term to services, or says who leads."""

    def __init__(self, cell_name: str, election: Election) -> None:
        self._cell_name, self._election = cell_name, election
        self._term: Term | None = None

    def begin(self, term: Term) -> None:
        self._term = term

    def end(self) -> None:
        self._term = None

    def term(self) -> Term:
        """Raises FailedPrecondition NOT_LEADER, with the leader's address, unless this process leads."""
        if self._term is not None and self._election.is_leading:
            return self._term
        if self._election.is_leading:
            raise Unavailable("CELL_STARTING", f"the leader of cell {self._cell_name} has just been elected", fix="try again in a second")
        leader = self._election.leader
        address = leader.address if leader is not None else ""
        message = f"this controller does not lead cell {self._cell_name}"
        fix = "ask the leader" if address else "try again in a second"
        raise FailedPrecondition("NOT_LEADER", message, fix=fix, address=address, cell=self._cell_name)
