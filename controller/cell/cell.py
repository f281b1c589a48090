"""What every reconciler of a cell works with, as one value made once a term."""

from dataclasses import dataclass, field
from datetime import datetime

from controller.cell.agents import Agents
from controller.cell.ledger import Ledger
from controller.cell.records import Records
from controller.cell.report import Reporter
from controller.cell.strangers import Strangers
from kumo.clock import Clock


@dataclass(frozen=True)
class Cell:
    """`underlay_mtu` is what the tunnels between hosts carry, in bytes of IP.

    `acknowledged_at` says when ends were acknowledged in this term, on the monotonic clock.
    """

    name: str
    underlay_mtu: int
    ledger: Ledger
    records: Records
    agents: Agents
    strangers: Strangers
    reporter: Reporter
    clock: Clock
    acknowledged_at: dict[str, float] = field(default_factory=dict)

    def now(self) -> datetime:
        return self.clock.now()
