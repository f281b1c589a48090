"""Knows what hosts have and the cell has no record of, as after its store went back in time; takes it from them once the region says that
it does not know it either.

Until that is decided nothing new is placed: a stranger has room of its host, and addresses, that no record counts. Its disks stay,
and are told of as volumes that nothing explains.
"""

from collections.abc import Iterable

from prometheus_client import Gauge

from controller.cell.agents import Agents
from controller.cell.records import Records
from controller.cell.session import Session
from kumo.api.agent.v1.compute_pb2 import ServerFacts
from kumo.api.agent.v1.network_pb2 import PortFacts
from kumo.clock import Clock
from kumo.errors import Unavailable
from kumo.log import get_logger

log = get_logger(__name__)

STRANGERS = Gauge("kumo_cell_strangers", "Servers and ports that hosts of this cell have and no record explains.")

# A stranger that nobody decides about must not stop a cell for ever.
_WAITED_FOR_S = 60.0
_LISTED = 20


class Strangers:
    """Of one term. What is noted is looked at again whenever it is asked for, so that noting too much does no harm."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self._records, self._clock = records, clock
        self._agents: Agents | None = None
        # Since when: by the uids of host and thing, on the monotonic clock.
        self._noted: dict[tuple[str, str], float] = {}

    def follow(self, agents: Agents) -> None:
        """Believe what these agents say."""
        self._agents = agents

    def note(self, host_uid: str, uid: str) -> None:
        """A host said something of a server or port."""
        if self._records.servers.entry(uid) is None and self._records.ports.entry(uid) is None:
            self._noted.setdefault((host_uid, uid), self._clock.monotonic())

    def uids(self) -> list[str]:
        """Return the uids of all there are now."""
        return sorted({uid for _session, uid, _since in self._present()})

    def check(self) -> None:
        """Raise Unavailable while there is one that might be decided about soon."""
        young = [uid for _session, uid, since in self._present() if self._clock.monotonic() - since < _WAITED_FOR_S]
        if young:
            raise Unavailable(
                "STRANGERS",
                f"hosts have {len(young)} servers and ports that no record explains: {', '.join(sorted(young)[:_LISTED])}",
                fix="wait: the region decides about them, and after a minute it goes on",
            )

    async def remove(self, uids: Iterable[str]) -> None:
        """Have them taken from their hosts; a host's ports follow its servers, which may still use them."""
        asked = frozenset(uids)
        going = [(session, uid) for session, uid, _since in self._present() if uid in asked]
        busy = {session.host_uid for session, uid in going if uid in session.servers}
        for session, uid in going:
            if (server := session.servers.get(uid)) is not None:
                log.warning("stranger taken from its host", host=session.name, server=uid)
                await session.apply_server(uid, None, server.held.epoch, server.held.generation, b"")
            elif (port := session.ports.get(uid)) is not None and session.host_uid not in busy:
                await session.apply_port(uid, None, port.held.epoch, port.held.generation, b"")

    def _present(self) -> list[tuple[Session, str, float]]:
        found = []
        for (host_uid, uid), since in list(self._noted.items()):
            session = self._agents.get(host_uid) if self._agents is not None else None
            if session is None or not self._is_stranger(session, uid):
                del self._noted[(host_uid, uid)]
            elif session.is_ready:
                found.append((session, uid, since))
        STRANGERS.set(len(found))
        return found

    def _is_stranger(self, session: Session, uid: str) -> bool:
        server, port = session.servers.get(uid), session.ports.get(uid)
        if server is not None and server.power != ServerFacts.ABSENT:
            return self._records.servers.entry(uid) is None
        return port is not None and port.binding != PortFacts.ABSENT and self._records.ports.entry(uid) is None
