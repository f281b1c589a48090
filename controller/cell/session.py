"""One host as the cell's leader knows it: the connection, what its agent says is so, and what it was told. It decides nothing.

The stream of facts is the heartbeat: five silent seconds and the connection is given up and dialled anew. What was known stays, as
last seen. What was told is forgotten with the connection, so that everything is told again to an agent that came back.
"""

import asyncio
import hashlib
import random
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

import grpc
from google.protobuf.message import Message

from controller.cell.sightings import Sightings, Whereabouts
from kumo.api.agent.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    compute_pb2,
    compute_pb2_grpc,
    network_pb2,
    network_pb2_grpc,
    storage_pb2_grpc,
)
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp, Term
from kumo.clock import Clock
from kumo.errors import Error, FailedPrecondition, Unavailable
from kumo.log import get_logger
from kumo.stamps import term_order

log = get_logger(__name__)

SILENT_S = 5.0
# A connection and one call on it, over a way of two seconds.
_DIAL_S = 12.0
_COMMAND_S = 20.0
_FIRST_BACKOFF_S, _MOST_BACKOFF_S = 0.1, 5.0
_NOT_DIALLED = "it was not dialled yet"

# Opens a channel to the address of the agent of the host of that name.
Dial = Callable[[str, str], Awaitable[grpc.aio.Channel]]
FactStream: TypeAlias = "grpc.aio.UnaryStreamCall[agent_pb2.WatchFactsRequest, agent_pb2.Facts]"


class Listener(Protocol):
    """Whom a session tells that something changed. Called on the event loop's thread; returns at once.

    `is_gone`: nothing of it is on the host, or it is not known what was of it before.
    """

    def host_changed(self, host_uid: str) -> None: ...
    def server_changed(self, host_uid: str, uid: str, *, is_gone: bool) -> None: ...
    def port_changed(self, host_uid: str, uid: str, *, is_gone: bool) -> None: ...


class Session:
    """`servers` and `ports` hold what the agent said last, by uid; they are to be believed only while `is_ready`."""

    def __init__(
        self, host: Host, dial: Dial, term: Term, sequence: Callable[[], int], listener: Listener, where: Whereabouts, now: float
    ) -> None:
        """`sequence` counts the commands of the term; `where` is of all servers and ports; `now` is on the monotonic clock."""
        self.host_uid, self.address = host.uid, host.spec.agent_address
        # As in its certificate.
        self.name = host.name.removeprefix("hosts/")
        self.servers = Sightings(compute_pb2.ServerFacts, host.uid, where)
        self.ports = Sightings(network_pb2.PortFacts, host.uid, where)
        self.is_ready = False
        # When the agent was heard last, on the monotonic clock; None before the first time.
        self.heard_at: float | None = None
        # Since when it is not ready, on the monotonic clock.
        self.silent_since = now
        self.why_silent = _NOT_DIALLED
        self._dial, self._term, self._sequence, self._listener = dial, term, sequence, listener
        self._host: bytes | None = None
        self._roles: tuple[str, ...] = ()
        self._told: dict[str, bytes] = {}
        self._channel: grpc.aio.Channel | None = None

    async def run(self, clock: Clock, rng: random.Random, handshakes: AbstractAsyncContextManager[object]) -> None:
        """Keep connected for ever."""
        failures = 0
        while True:
            before = self.heard_at
            try:
                await self._connected(clock, handshakes)
            except (Error, TimeoutError, grpc.aio.AioRpcError) as error:
                said = error.message if isinstance(error, Error) else "it was silent for 5 s"
                self._lost(said, clock.monotonic())
            failures = 1 if self.heard_at != before else failures + 1
            await clock.sleep(min(_MOST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(failures, 10)) * rng.uniform(0.5, 1.0))

    @property
    def host(self) -> agent_pb2.HostFacts | None:
        """What the agent said last of the host."""
        return agent_pb2.HostFacts.FromString(self._host) if self._host is not None else None

    def has_role(self, role: str) -> bool:
        return self.is_ready and role in self._roles

    def forget(self) -> None:
        """Drop all that the agent said, for one that is not listened to any more."""
        self.servers.clear()
        self.ports.clear()

    @property
    def channel(self) -> grpc.aio.Channel:
        """Raises Unavailable while the agent is away."""
        if self._channel is None or not self.is_ready:
            raise Unavailable(
                "HOST_NOT_DIALLED" if self.why_silent == _NOT_DIALLED else "HOST_SILENT",
                f"the agent of host {self.name} does not answer: {self.why_silent}",
                fix="look at the agent of that host; the work goes on by itself when it answers",
                host=self.name,
            )
        return self._channel

    @property
    def storage(self) -> "storage_pb2_grpc.StorageAsyncStub":
        return storage_pb2_grpc.StorageStub(self.channel)

    @property
    def compute(self) -> "compute_pb2_grpc.ComputeAsyncStub":
        return compute_pb2_grpc.ComputeStub(self.channel)

    def stamp(self, epoch: Epoch | None, generation: int, floor: int = 0) -> Stamp:
        """Return the stamp of the next command. `floor` is the generation that the agent holds: greater than ours after our store was
        restored, until the region has told us again what it wants.
        """
        return Stamp(term=self._term, sequence=self._sequence(), epoch=epoch, generation=max(generation, floor))

    def was_told(self, uid: str, what: bytes) -> bool:
        """Return whether this agent took the command of which `what` is the digest() and no other since, on this connection."""
        return self._told.get(uid) == what

    async def apply_server(
        self, uid: str, desired: compute_pb2.DesiredServer | None, epoch: Epoch, generation: int, what: bytes
    ) -> compute_pb2.ServerFacts:
        known = self.servers.get(uid)
        stamp = self.stamp(epoch, generation, known.held.generation if known is not None else 0)
        stub = self.compute
        request = compute_pb2.ApplyServerRequest(stamp=stamp, uid=uid, desired=desired)
        facts = (await stub.ApplyServer(request, timeout=_COMMAND_S)).facts
        self._told[sys.intern(uid)] = what
        self._note_server(facts, is_answer=True)
        if self.servers[uid].power == compute_pb2.ServerFacts.ABSENT:
            # The stream may have said so before this answer; only now is it known to be by this very command.
            self._listener.server_changed(self.host_uid, uid, is_gone=True)
        return self.servers[uid]

    async def apply_port(
        self, uid: str, desired: network_pb2.DesiredPort | None, epoch: Epoch, generation: int, what: bytes
    ) -> network_pb2.PortFacts:
        known = self.ports.get(uid)
        stamp = self.stamp(epoch, generation, known.held.generation if known is not None else 0)
        stub = network_pb2_grpc.NetworkStub(self.channel)
        request = network_pb2.ApplyPortRequest(stamp=stamp, uid=uid, desired=desired)
        facts = (await stub.ApplyPort(request, timeout=_COMMAND_S)).facts
        self._told[sys.intern(uid)] = what
        self._note_port(facts, is_answer=True)
        return self.ports[uid]

    async def apply_network(self, uid: str, desired: network_pb2.DesiredNetwork | None, generation: int, what: bytes) -> None:
        stub = network_pb2_grpc.NetworkStub(self.channel)
        request = network_pb2.ApplyNetworkRequest(stamp=self.stamp(None, generation), uid=uid, desired=desired)
        try:
            await stub.ApplyNetwork(request, timeout=_COMMAND_S)
        except FailedPrecondition as error:
            # Networks are not among the facts, so that what is held of one is learnt from a refusal.
            if error.metadata.get("behind") != "generation":
                raise
            request.stamp.CopyFrom(self.stamp(None, generation, int(error.metadata["held_generation"])))
            await stub.ApplyNetwork(request, timeout=_COMMAND_S)
        self._told[sys.intern(uid)] = what

    async def acknowledge(self, uids: Iterable[str]) -> None:
        """Tell the agent that the ends of `uids` are recorded; it forgets them an hour later, and we do at once."""
        listed = list(uids)
        stub = agent_pb2_grpc.AgentsStub(self.channel)
        await stub.AcknowledgeEnds(agent_pb2.AcknowledgeEndsRequest(term=self._term, uids=listed), timeout=_COMMAND_S)
        for uid in listed:
            self._told.pop(uid, None)
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        """Drop what the agent said of a thing that is gone, unless it has come back meanwhile."""
        server, port = self.servers.get(uid), self.ports.get(uid)
        if server is not None and server.power == compute_pb2.ServerFacts.ABSENT:
            del self.servers[uid]
        if port is not None and port.binding == network_pb2.PortFacts.ABSENT:
            del self.ports[uid]

    async def _connected(self, clock: Clock, handshakes: AbstractAsyncContextManager[object]) -> None:
        """Dial, take in facts until the connection is lost."""
        channel = await self._dial(self.address, self.name)
        try:
            async with handshakes, asyncio.timeout(_DIAL_S):
                await agent_pb2_grpc.AgentsStub(channel).DescribeHost(agent_pb2.DescribeHostRequest(), timeout=_DIAL_S)
            self._channel = channel
            # No variable: it would hold the stub, of no more use, as long as the connection.
            await self._follow(agent_pb2_grpc.AgentsStub(channel).WatchFacts(agent_pb2.WatchFactsRequest(term=self._term)), clock)
        finally:
            self._channel = None
            await channel.close(None)

    async def _follow(self, stream: FactStream, clock: Clock) -> None:
        try:
            await self._take_all(stream, clock)
            while True:
                self._note(await self._next(stream, clock))
        finally:
            stream.cancel()

    async def _next(self, stream: FactStream, clock: Clock) -> agent_pb2.Facts:
        async with asyncio.timeout(SILENT_S):
            facts = await stream.read()
        if not isinstance(facts, agent_pb2.Facts):
            raise Unavailable("FACTS_ENDED", f"the agent of host {self.name} ended the stream of facts", host=self.name)
        self.heard_at = clock.monotonic()
        if facts.HasField("host"):
            self._host, self._roles = facts.host.SerializeToString(), tuple(facts.host.roles)
            self._listener.host_changed(self.host_uid)
        return facts

    async def _take_all(self, stream: FactStream, clock: Clock) -> None:
        """Return once all that the agent holds is known: what was known and was not named is not there."""
        servers: dict[str, compute_pb2.ServerFacts] = {}
        ports: dict[str, network_pb2.PortFacts] = {}
        is_complete = False
        while not is_complete:
            facts = await self._next(stream, clock)
            servers |= {server.uid: server for server in facts.servers}
            ports |= {port.uid: port for port in facts.ports}
            is_complete = facts.complete
        touched_servers, touched_ports = servers.keys() | self.servers.keys(), ports.keys() | self.ports.keys()
        self.forget()
        self.servers.update(servers)
        self.ports.update(ports)
        self._told.clear()
        self.is_ready = True
        log.info("host answers", host=self.name, servers=len(servers), ports=len(ports))
        self._listener.host_changed(self.host_uid)
        for uid in touched_servers:
            self._listener.server_changed(self.host_uid, uid, is_gone=True)
        for uid in touched_ports:
            self._listener.port_changed(self.host_uid, uid, is_gone=True)

    def _lost(self, why: str, now: float) -> None:
        self.why_silent = why
        if self.is_ready:
            self.silent_since = now
            log.warning("host is silent", host=self.name, why=why)
        self.is_ready = False
        self._told.clear()
        self._listener.host_changed(self.host_uid)

    def _note(self, facts: agent_pb2.Facts) -> None:
        for server in facts.servers:
            self._note_server(server)
        for port in facts.ports:
            self._note_port(port)

    def _note_server(self, facts: compute_pb2.ServerFacts, *, is_answer: bool = False) -> None:
        known = self.servers.get(facts.uid)
        if known is not None and _is_older(facts.held, known.held, is_answer=is_answer):
            return
        self.servers[facts.uid] = facts
        if facts != known:
            self._listener.server_changed(self.host_uid, facts.uid, is_gone=facts.power == compute_pb2.ServerFacts.ABSENT)

    def _note_port(self, facts: network_pb2.PortFacts, *, is_answer: bool = False) -> None:
        known = self.ports.get(facts.uid)
        if known is not None and _is_older(facts.held, known.held, is_answer=is_answer):
            return
        self.ports[facts.uid] = facts
        if facts != known:
            self._listener.port_changed(self.host_uid, facts.uid, is_gone=facts.binding == network_pb2.PortFacts.ABSENT)


def _is_older(held: Stamp, known: Stamp, *, is_answer: bool) -> bool:
    """Answers and the stream overtake each other: of two that speak of one command, the stream's is the later."""
    new, old = (*term_order(held.term), held.sequence), (*term_order(known.term), known.sequence)
    return new <= old if is_answer else new < old


def digest(*parts: Message | bytes | int | None) -> bytes:
    """Return what tells one command from another."""
    text = hashlib.sha256()
    for part in parts:
        data = part.SerializeToString(deterministic=True) if isinstance(part, Message) else str(part).encode()
        text.update(str(len(data)).encode() + b":" + data)
    return text.digest()
