"""Keeps the last facts of the host, its servers and its ports, and hands changes to whoever watches; where they come from is others'."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from kumo.api.agent.v1.agent_pb2 import Facts, HostFacts
from kumo.api.agent.v1.compute_pb2 import ServerFacts
from kumo.api.agent.v1.network_pb2 import PortFacts
from kumo.clock import Clock, SystemClock

HEARTBEAT_S = 1.0
# A message holds at most so many things, to stay far below what a message may weigh.
_BATCH = 500


@dataclass
class _Watcher:
    """What one stream has not sent yet; a thing that changes twice meanwhile is sent once."""

    host: bool = True
    servers: dict[str, None] = field(default_factory=dict)
    ports: dict[str, None] = field(default_factory=dict)
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class FactBook:
    """The facts of one host. Belongs to the event loop's thread."""

    def __init__(self, roles: frozenset[str], clock: Clock | None = None) -> None:
        """`roles` are those of compute and network that run here: a stream is complete when each said list_is_known()."""
        self._unknown = set(roles)
        self._clock = clock or SystemClock()
        self._host = HostFacts()
        self._servers: dict[str, ServerFacts] = {}
        self._ports: dict[str, PortFacts] = {}
        self._watchers: list[_Watcher] = []
        self._on_port: list[Callable[[str], None]] = []

    def list_is_known(self, role: str) -> None:
        """Say that all there is of `role` has been set once: what is not here is not on this host."""
        self._unknown.discard(role)
        for watcher in self._watchers:
            watcher.woken.set()

    def on_port_change(self, call: Callable[[str], None]) -> None:
        """Have `call` told the uid of each port whose facts change."""
        self._on_port.append(call)

    def host(self) -> HostFacts:
        return self._host

    def server(self, uid: str) -> ServerFacts | None:
        return self._servers.get(uid)

    def port(self, uid: str) -> PortFacts | None:
        return self._ports.get(uid)

    def set_host(self, facts: HostFacts) -> None:
        if facts != self._host:
            self._host = facts
            for watcher in self._watchers:
                watcher.host = True
                watcher.woken.set()

    def set_server(self, facts: ServerFacts) -> None:
        """Say what is so of a server. `facts` is not to be changed afterwards."""
        if facts != self._servers.get(facts.uid):
            self._servers[facts.uid] = facts
            for watcher in self._watchers:
                watcher.servers[facts.uid] = None
                watcher.woken.set()

    def set_port(self, facts: PortFacts) -> None:
        """Say what is so of a port. `facts` is not to be changed afterwards."""
        if facts != self._ports.get(facts.uid):
            self._ports[facts.uid] = facts
            for watcher in self._watchers:
                watcher.ports[facts.uid] = None
                watcher.woken.set()
            for call in self._on_port:
                call(facts.uid)

    def drop(self, uid: str) -> None:
        """Say no more of a thing whose tombstone went."""
        self._servers.pop(uid, None)
        self._ports.pop(uid, None)

    async def watch(self) -> AsyncGenerator[Facts, None]:
        """Yield all there is, then changes as they come, and a message without facts after each second of silence."""
        watcher = _Watcher(servers=dict.fromkeys(self._servers), ports=dict.fromkeys(self._ports))
        self._watchers.append(watcher)
        complete = False
        try:
            while True:
                facts = self._take(watcher)
                if not (complete or self._unknown or watcher.servers or watcher.ports):
                    facts.complete = complete = True
                facts.send_time.FromDatetime(self._clock.now())
                yield facts
                if watcher.servers or watcher.ports:
                    continue
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await watcher.woken.wait()
                except TimeoutError:
                    pass
                watcher.woken.clear()
        finally:
            self._watchers.remove(watcher)

    def _take(self, watcher: _Watcher) -> Facts:
        facts = Facts()
        if watcher.host:
            watcher.host = False
            facts.host.CopyFrom(self._host)
        for uid in list(watcher.servers)[:_BATCH]:
            del watcher.servers[uid]
            if (server := self._servers.get(uid)) is not None:
                facts.servers.append(server)
        for uid in list(watcher.ports)[:_BATCH]:
            del watcher.ports[uid]
            if (port := self._ports.get(uid)) is not None:
                facts.ports.append(port)
        return facts
