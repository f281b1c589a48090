"""The sessions with all hosts of the cell, as the records of hosts say; finds the one that a piece of work goes to.

At most 64 hosts shake hands at a time, so that a leader that is elected does not spend its first seconds on all of them at once.
"""

import asyncio
import itertools
import random
import zlib
from collections.abc import Iterator

from controller.cell.ledger import View
from controller.cell.session import Dial, Listener, Session
from controller.cell.sightings import Whereabouts
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.type.v1.stamp_pb2 import Term
from kumo.clock import Clock
from kumo.errors import Unavailable
from kumo.log import get_logger

log = get_logger(__name__)

_HANDSHAKES = 64
_JITTER_S = 1.0


class Agents:
    """Sessions by the uid of their host."""

    def __init__(
        self, hosts: View[Host], dial: Dial, term: Term, clock: Clock, listener: Listener, rng: random.Random | None = None
    ) -> None:
        self._hosts, self._dial, self._term, self._clock, self._listener = hosts, dial, term, clock, listener
        self._rng = rng or random.Random()
        self._next_number = itertools.count(1).__next__
        self._where = Whereabouts()
        self._sessions: dict[str, Session] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._handshakes = asyncio.Semaphore(_HANDSHAKES)
        hosts.on_intent(lambda _uid: self._changed.set())

    async def run(self) -> None:
        """Keep one session for each host for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                self._start_and_stop(tasks)
                await self._changed.wait()

    def get(self, host_uid: str) -> Session | None:
        return self._sessions.get(host_uid)

    def session(self, host_uid: str) -> Session:
        """Raises Unavailable for a host that is not, or not yet, dialled."""
        session = self._sessions.get(host_uid)
        if session is None:
            raise Unavailable("HOST_UNKNOWN", f"no session with host {host_uid}", fix="wait: it is being dialled", host_uid=host_uid)
        return session

    def all(self) -> Iterator[Session]:
        yield from self._sessions.values()

    def that_saw(self, uid: str) -> list[Session]:
        """Return the sessions whose agents said something of that server or port."""
        return [session for host_uid in self._where.hosts(uid) if (session := self._sessions.get(host_uid)) is not None]

    def has_storage(self, pool: Pool) -> bool:
        """Whether for_storage() would find a host."""
        return bool(self._able(pool))

    def for_storage(self, uid: str, pool: Pool) -> Session:
        """Return a host that does work on storage in `pool`: the same one for the same thing as long as it answers."""
        able = self._able(pool)
        if not able:
            which = f"of {', '.join(pool.spec.hosts)}, which alone reach {pool.name}, none" if pool.spec.hosts else "no host"
            raise Unavailable(
                "NO_STORAGE_AGENT", f"{which} with the storage role answers", fix="bring up a host with the role storage", pool=pool.name
            )
        return max(able, key=lambda session: (zlib.crc32(f"{session.host_uid}/{uid}".encode()), session.host_uid))

    def _able(self, pool: Pool) -> list[Session]:
        reach = pool.spec.hosts
        return [one for one in self._sessions.values() if one.has_role("storage") and (not reach or one.name in reach)]

    def _start_and_stop(self, tasks: asyncio.TaskGroup) -> None:
        wanted = {host.uid: host for host in self._hosts.all()}
        for uid, session in list(self._sessions.items()):
            host = wanted.get(uid)
            if host is None or host.spec.agent_address != session.address:
                self._running.pop(uid).cancel()
                self._sessions.pop(uid).forget()
                self._listener.host_changed(uid)
        spread_s = min(_JITTER_S, 0.01 * len(wanted))
        for uid, host in wanted.items():
            if uid not in self._sessions:
                session = Session(host, self._dial, self._term, self._next_number, self._listener, self._where, self._clock.monotonic())
                self._sessions[uid] = session
                self._running[uid] = tasks.create_task(self._keep(session, self._rng.uniform(0, spread_s)))

    async def _keep(self, session: Session, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        await session.run(self._clock, self._rng, self._handshakes)
