"""Tells the agent of one host which of its tombstones the cell has recorded, so that it forgets them in time."""

from controller.cell.cell import Cell
from controller.cell.session import Session
from kumo.api.agent.v1.compute_pb2 import ServerFacts
from kumo.api.agent.v1.network_pb2 import PortFacts

_AT_ONCE = 1000


class Acknowledgements:
    """Called by its loop with the uid of a host."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    async def reconcile(self, host_uid: str) -> None:
        session = self._cell.agents.get(host_uid)
        if session is None or not session.is_ready:
            return
        uids = self._recorded(session)
        for start in range(0, len(uids), _AT_ONCE):
            await session.acknowledge(uids[start : start + _AT_ONCE])

    def _recorded(self, session: Session) -> list[str]:
        """Return what the agent keeps as gone that is gone from the cell too, or placed elsewhere."""
        gone = [uid for uid, server in session.servers.items() if server.power == ServerFacts.ABSENT and not self._is_on(uid, session)]
        records = self._cell.records
        for uid, port in session.ports.items():
            known = records.ports.get(uid)
            if port.binding == PortFacts.ABSENT and (known is None or not self._is_on(known.spec.server_uid, session)):
                gone.append(uid)
        return gone

    def _is_on(self, server_uid: str, session: Session) -> bool:
        """Return whether the server is placed on that host, or may be: it is known and placed nowhere else."""
        if self._cell.records.servers.entry(server_uid) is None:
            return False
        placement = self._cell.records.placements.get(server_uid)
        return placement is None or placement.host_uid in ("", session.host_uid)
