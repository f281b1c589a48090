"""A small cell that keeps cell.v1's promises in memory, with hosts that do at once what they are told and a room that tests set.

It refuses stale commands, keeps ends until they are acknowledged, and resumes its stream of facts exactly.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.api.type.v1.stamp_pb2 import Stamp, Term
from kumo.errors import Aborted, AlreadyExists, Error, FailedPrecondition, NotFound
from kumo.ids import new_uid
from kumo.stamps import behind, term_order

_SETTLED = {
    "volume": Volume.AVAILABLE,
    "attachment": Attachment.ATTACHED,
    "port": Port.ACTIVE,
    "network": Network.ACTIVE,
    "image": Image.PENDING,
    "pool": Pool.ACTIVE,
}
Verdict = cell_pb2.Verdict


@dataclass
class Thing:
    """One thing that the cell was told of."""

    kind: str
    stamp: Stamp
    order: Any
    answer: "Verdict.Answer.ValueType" = Verdict.ANSWER_UNSPECIFIED
    has_ended: bool = False
    received: bytes = b""

    @property
    def record(self) -> Any:
        return getattr(self.order, self.kind)


@dataclass
class CellDouble(cell_pb2_grpc.IntentsServicer, cell_pb2_grpc.HostsServicer, cell_pb2_grpc.StreamsServicer):
    """`room` is how many servers fit; `says_ended` off keeps what is to go until it is set."""

    name: str = "a"
    heartbeat_s: float = 0.2
    room: int = 1000
    says_ended: bool = True
    refuses: bool = False
    # What its pools can be asked for.
    verbs: list[str] = field(default_factory=list)
    # What it answers to forwarded calls and streams, one each, before it does as it is told.
    refusals: list[Error] = field(default_factory=list)
    thawed: asyncio.Event = field(default_factory=asyncio.Event)
    things: dict[str, Thing] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    applied: list[cell_pb2.ApplyIntentRequest] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    facts: list[cell_pb2.Fact] = field(default_factory=list)
    largest: Term = field(default_factory=Term)
    life: str = field(default_factory=new_uid)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.thawed.set()

    # Intents.

    async def ApplyIntent(self, request: cell_pb2.ApplyIntentRequest, context: Any) -> cell_pb2.ApplyIntentResponse:
        thing = self.things.get(request.uid)
        if number := behind(request.stamp, thing.stamp if thing else None, self.largest):
            raise FailedPrecondition("STALE_COMMAND", f"the {number} of {request.uid} is behind", fix="read what is held")
        self.largest.CopyFrom(request.stamp.term)
        self.applied.append(request)
        kind = str(request.WhichOneof("order"))
        if thing is None or thing.stamp.epoch.cell < request.stamp.epoch.cell:
            thing = self.things[request.uid] = Thing(kind, request.stamp, getattr(request, kind))
        thing.stamp, thing.order = request.stamp, getattr(request, kind)
        if request.withdrawn or thing.record.HasField("delete_time"):
            thing.has_ended = self.says_ended
            if self.says_ended:
                self.say(cell_pb2.Fact(uid=request.uid, ended=True, generation=request.stamp.generation))
        else:
            self.settle(request.uid)
        return cell_pb2.ApplyIntentResponse(held=thing.stamp)

    async def ListHeld(self, _request: Any, context: Any) -> AsyncIterator[cell_pb2.Held]:
        for uid, thing in self.things.items():
            yield cell_pb2.Held(kind=thing.kind, uid=uid, stamp=thing.stamp, largest_term=self.largest)

    async def WatchFacts(self, request: cell_pb2.WatchFactsRequest, context: Any) -> AsyncIterator[cell_pb2.Facts]:
        if term_order(request.term) < term_order(self.largest):
            raise FailedPrecondition("STALE_COMMAND", "the term is behind", fix="give up")
        at = self._position(request.resume_token)
        if not request.resume_token:
            at = len(self.facts)
            yield cell_pb2.Facts(facts=self.snapshot(), complete=True, resume_token=self._token(at))
        while True:
            await self.thawed.wait()
            fresh = self.facts[at : at + 50]
            at += len(fresh)
            yield cell_pb2.Facts(facts=fresh, resume_token=self._token(at))
            if not fresh:
                self.moved.clear()
                try:
                    async with asyncio.timeout(self.heartbeat_s):
                        await self.moved.wait()
                except TimeoutError:
                    continue

    async def AcknowledgeEnds(self, request: cell_pb2.AcknowledgeEndsRequest, context: Any) -> cell_pb2.AcknowledgeEndsResponse:
        for uid in request.uids:
            self.acknowledged.append(uid)
            if uid in self.things and self.things[uid].has_ended:
                del self.things[uid]
        return cell_pb2.AcknowledgeEndsResponse()

    async def Disown(self, request: cell_pb2.DisownRequest, context: Any) -> cell_pb2.DisownResponse:
        return cell_pb2.DisownResponse()

    # What tests do to it.

    def say(self, fact: cell_pb2.Fact) -> None:
        self.facts.append(fact)
        self.moved.set()

    def settle(self, uid: str) -> None:
        """Say of one thing that it is as it shall be, or that there is no room for it."""
        thing = self.things[uid]
        fact = cell_pb2.Fact(uid=uid, generation=thing.stamp.generation)
        target = getattr(fact, thing.kind)
        target.uid, target.status.observed_generation = uid, thing.record.generation
        if thing.kind == "server":
            self._place(uid, thing, fact)
        elif thing.kind == "image" and len(thing.received) >= thing.record.spec.size_bytes:
            target.status.state, target.status.virtual_size_bytes = Image.ACTIVE, 1 << 30
        else:
            target.status.state = _SETTLED[thing.kind]
        if thing.kind == "pool":
            target.status.verbs.extend(self.verbs)
        self.say(fact)

    def end(self, uid: str) -> None:
        self.things[uid].has_ended = True
        self.say(cell_pb2.Fact(uid=uid, ended=True))

    def of_kind(self, kind: str) -> list[Any]:
        return [thing.record for thing in self.things.values() if thing.kind == kind]

    def snapshot(self) -> list[cell_pb2.Fact]:
        """Return the last fact of each thing."""
        last: dict[str, cell_pb2.Fact] = {}
        for fact in self.facts:
            last[fact.uid] = fact
        return [fact for uid, fact in last.items() if uid in self.things or uid in self.hosts or fact.HasField("event")]

    def _place(self, uid: str, thing: Thing, fact: cell_pb2.Fact) -> None:
        if thing.answer != Verdict.PLACED:
            if self.refuses:
                thing.answer = Verdict.REFUSED
            else:
                thing.answer = Verdict.PLACED if self.room > 0 else Verdict.WAITING
            self.room -= thing.answer == Verdict.PLACED
        fact.verdict.answer, fact.verdict.cell_epoch = thing.answer, thing.stamp.epoch.cell
        spec, status = thing.record.spec, fact.server.status
        if thing.answer != Verdict.PLACED:
            because = Condition(type="Placed", status=Condition.FALSE, reason="NO_ROOM", message="ask for less", fix="use a smaller flavor")
            because.operator_message = "3 hosts: 3 have no room"
            fact.verdict.because.CopyFrom(because)
            status.state = Server.CREATING
            return
        status.state = Server.ACTIVE if spec.power == Server.RUNNING else Server.STOPPED
        status.power, status.reboots, status.host = spec.power, spec.reboots, "h1"

    def _token(self, at: int) -> str:
        return json.dumps([self.life, at])

    def _position(self, token: str) -> int:
        life, at = json.loads(token) if token else (self.life, 0)
        if life != self.life:
            raise Aborted("RESUME_TOKEN_EXPIRED", "another life", fix="begin anew")
        return int(at)

    # Hosts.

    async def CreateHost(self, request: cell_pb2.CreateHostRequest, context: Any) -> Host:
        name = f"hosts/{request.request.host_id}"
        if any(host.name == name for host in self.hosts.values()):
            raise AlreadyExists("ALREADY_EXISTS", f"{name} exists", fix="choose another name")
        host = request.request.host
        host.name, host.uid, host.etag, host.generation = name, new_uid(), "cell-1", 1
        host.create_time.GetCurrentTime()
        host.update_time.CopyFrom(host.create_time)
        host.status.state, host.status.vcpus, host.status.memory_mib = Host.UP, 8, 16384
        if request.request.validate_only:
            return host
        self.hosts[host.uid] = host
        self.say(cell_pb2.Fact(uid=host.uid, host=host))
        return host

    async def UpdateHost(self, request: cell_pb2.UpdateHostRequest, context: Any) -> Host:
        host = self._host(request.request.host.name)
        if request.request.host.etag not in ("", host.etag):
            raise Aborted("ETAG_STALE", "another version", fix="read again")
        if request.request.validate_only:
            return host
        host.spec.cordoned = request.request.host.spec.cordoned
        host.generation += 1
        host.etag = f"cell-{host.generation}"
        self.say(cell_pb2.Fact(uid=host.uid, host=host))
        return host

    async def DeleteHost(self, request: cell_pb2.DeleteHostRequest, context: Any) -> Host:
        host = self._host(request.request.name)
        if request.request.validate_only:
            return host
        del self.hosts[host.uid]
        host.delete_time.GetCurrentTime()
        self.say(cell_pb2.Fact(uid=host.uid, host=host, ended=True))
        return host

    def _refuse(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)

    def _host(self, name: str) -> Host:
        for host in self.hosts.values():
            if host.name == name:
                return host
        raise NotFound("HOST_NOT_FOUND", f"there is no host {name}")

    # Streams.

    async def UploadImage(
        self, requests: AsyncIterator[cell_pb2.UploadImageRequest], context: Any
    ) -> AsyncIterator[cell_pb2.UploadImageResponse]:
        uid = ""
        async for request in requests:
            uid = uid or request.uid
            thing = self.things[uid]
            if request.data and request.offset == len(thing.received):
                thing.received += request.data
            yield cell_pb2.UploadImageResponse(received_bytes=len(thing.received))
            if len(thing.received) >= thing.record.spec.size_bytes:
                self.settle(uid)
                return

    async def AttachConsole(
        self, requests: AsyncIterator[cell_pb2.AttachConsoleRequest], context: Any
    ) -> AsyncIterator[cell_pb2.AttachConsoleResponse]:
        async for request in requests:
            yield cell_pb2.AttachConsoleResponse(output=request.input.upper())

    async def ReadConsoleLog(self, request: cell_pb2.ReadConsoleLogRequest, context: Any) -> AsyncIterator[cell_pb2.ReadConsoleLogResponse]:
        self._refuse()
        for _ in range(3):
            yield cell_pb2.ReadConsoleLogResponse(output=b"x" * 1000)
