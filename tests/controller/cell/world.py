"""A cell with real etcd, real gRPC and agents whose drivers are the fakes that ship with them; and a region that is a few calls.

Nothing here is a mock: the agents are the agent's own classes in this process, and each test has a store prefix of its own.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from agent.compute import kvm
from agent.config import ComputeConfig, NetworkConfig, StorageConfig
from agent.config import Config as AgentConfig
from agent.main import Agent
from controller.cell.plane import CellPlane, agent_dial
from controller.config import CellConfig
from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.cell.v1.cell_pb2 import ApplyIntentRequest, Fact
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1 import host_pb2
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.network.v1.subnet_pb2 import Subnet
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp, Term
from kumo.clock import SystemClock
from kumo.errors import Error
from kumo.identity import Identity
from kumo.ids import new_uid
from kumo.rpc.client import channel
from kumo.store.client import Etcd
from kumo.store.plane import Plane
from kumo.tls import TlsFiles
from tests.controller.cell.fate import Fate, MortalEtcd
from tests.etcd import free_ports
from tests.pki import Pki

CELL, REGION = "a", "local"
DEADLINE_S = 20.0


@dataclass
class Bundle:
    """What the region pushes for one server: the server and everything that it needs."""

    server: Server
    volume: Volume
    attachment: Attachment
    port: Port
    network: Network
    subnet: Subnet
    pool: Pool
    image: Image

    def owned(self) -> list[tuple[str, Any]]:
        return [("volume", self.volume), ("attachment", self.attachment), ("port", self.port), ("server", self.server)]

    def shared(self) -> list[tuple[str, Any]]:
        return [("pool", self.pool), ("image", self.image), ("network", self.network)]


@dataclass
class Region:
    """Stands for the region's leader: commands the cell and keeps the last fact of each thing."""

    address: str
    tls: TlsFiles
    term: Term = field(default_factory=lambda: Term(incarnation=new_uid(), create_revision=1))
    facts: dict[str, Fact] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    token: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Any = field(default_factory=lambda: itertools.count(1))

    def channel(self) -> Any:
        return channel(self.address, self.tls.read(), server_name=Identity(CELL, REGION, "controller", "h1").dns)

    async def apply(self, kind: str, thing: Any, *, epoch: int = 1, withdrawn: bool = False, **beside: Any) -> Stamp:
        """Send one command, again and again until the cell takes it."""
        stamp = Stamp(term=self.term, sequence=next(self.counts), epoch=Epoch(cell=epoch), generation=thing.generation)
        request = ApplyIntentRequest(stamp=stamp, uid=thing.uid, withdrawn=withdrawn)
        getattr(getattr(request, kind), kind).CopyFrom(thing)
        for name, value in beside.items():
            target = getattr(request, kind)
            if isinstance(value, list):
                getattr(target, name).extend(value)
            else:
                setattr(target, name, value)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    async with self.channel() as dialled:
                        answer: cell_pb2.ApplyIntentResponse = await cell_pb2_grpc.IntentsStub(dialled).ApplyIntent(request, timeout=3.0)
                        return answer.held
                except Error as error:
                    if error.reason in ("STALE_COMMAND", "ORDER_MISSING", "UID_MISMATCH"):
                        raise
                    await asyncio.sleep(0.05)

    async def push(self, bundle: Bundle, *, epoch: int = 1) -> None:
        await self.push_shared(bundle)
        await self.push_owned(bundle, epoch=epoch)

    async def push_shared(self, bundle: Bundle) -> None:
        """Push what a server needs and does not own."""
        for kind, thing in bundle.shared():
            beside: dict[str, Any] = {"subnets": [bundle.subnet]} if kind == "network" else {}
            await self.apply(kind, thing, epoch=0, **beside)

    async def push_owned(self, bundle: Bundle, *, epoch: int = 1, kinds: Sequence[str] = ()) -> None:
        """Push a server and what it owns: all at once, or those of `kinds` in that order."""
        things = dict(bundle.owned())

        async def push(kind: str) -> None:
            beside: dict[str, Any] = {"project_uid": "p1", "user_data": b"#cloud"} if kind == "server" else {}
            await self.apply(kind, things[kind], epoch=epoch, **beside)

        if kinds:
            for kind in kinds:
                await push(kind)
        else:
            await asyncio.gather(*(push(kind) for kind in things))

    async def delete(self, bundle: Bundle, *, epoch: int = 1) -> None:
        for kind, thing in bundle.owned():
            thing.generation += 1
            thing.delete_time.GetCurrentTime()
            await self.apply(kind, thing, epoch=epoch)

    async def follow(self) -> None:
        """Follow the facts for ever, from the last token."""
        while True:
            try:
                async with self.channel() as dialled:
                    request = cell_pb2.WatchFactsRequest(term=self.term, resume_token=self.token)
                    stream = cell_pb2_grpc.IntentsStub(dialled).WatchFacts(request)
                    while True:
                        async with asyncio.timeout(5.0):
                            facts = await stream.read()
                        if not isinstance(facts, cell_pb2.Facts):
                            break
                        await self._take(cell_pb2_grpc.IntentsStub(dialled), facts)
            except (Error, TimeoutError) as error:
                if isinstance(error, Error) and error.reason == "RESUME_TOKEN_EXPIRED":
                    self.token = ""
                await asyncio.sleep(0.05)

    async def _take(self, stub: Any, facts: cell_pb2.Facts) -> None:
        ends = []
        for fact in facts.facts:
            if fact.WhichOneof("of") == "event":
                self.events.append(fact.event)
            elif fact.ended:
                ends.append(fact.uid)
                self.facts.pop(fact.uid, None)
            else:
                self.facts[fact.uid] = fact
        self.token = facts.resume_token or self.token
        self.ended += [uid for uid in ends if uid not in self.ended]
        self.changed.set()
        if ends:
            await stub.AcknowledgeEnds(cell_pb2.AcknowledgeEndsRequest(term=self.term, uids=ends), timeout=3.0)

    async def until(self, holds: Callable[[], object], what: str = "", deadline_s: float = DEADLINE_S) -> None:
        """Return once `holds` does; looked at after each message."""
        try:
            async with asyncio.timeout(deadline_s):
                while not holds():
                    self.changed.clear()
                    if holds():
                        return
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what}; facts: {self.facts}") from None

    def fact(self, uid: str) -> Fact:
        """Return the last fact of a thing, an empty one before the first."""
        return self.facts.get(uid, Fact())

    def server(self, uid: str) -> Server:
        return self.fact(uid).server

    async def until_state(self, uid: str, state: "Server.State.ValueType") -> None:
        await self.until(lambda: self.server(uid).status.state == state, f"server is {Server.State.Name(state)}")

    async def create_host(self, name: str, agent_address: str, **spec: Any) -> host_pb2.Host:
        """Create a host and wait until its agent is heard; the facts have to be followed."""
        asked = {"tunnel_address": "127.0.0.1", "storage_address": "127.0.0.1", **spec}
        made = host_pb2.Host(spec=host_pb2.Host.Spec(cell=CELL, agent_address=agent_address, **asked))
        request = cell_pb2.CreateHostRequest(request=host_pb2.CreateHostRequest(host_id=name, host=made))
        async with self.channel() as dialled:
            host: host_pb2.Host = await cell_pb2_grpc.HostsStub(dialled).CreateHost(request, timeout=5.0)
        await self.until(lambda: self.host(host.uid).status.state == host_pb2.Host.UP, f"{host.name} is UP")
        return host

    async def cordon(self, host: host_pb2.Host, *, cordoned: bool) -> host_pb2.Host:
        wanted = host_pb2.Host(name=host.name, spec=host_pb2.Host.Spec(cordoned=cordoned))
        request = host_pb2.UpdateHostRequest(host=wanted, update_mask=FieldMask(paths=["spec.cordoned"]))
        async with self.channel() as dialled:
            asked = cell_pb2.UpdateHostRequest(request=request)
            return await cell_pb2_grpc.HostsStub(dialled).UpdateHost(asked, timeout=5.0)  # type: ignore[no-any-return]

    def host(self, uid: str) -> host_pb2.Host:
        return self.fact(uid).host


@dataclass
class Cloud:
    """Everything a test needs. `lead()` starts a controller of the cell, which ends with its block."""

    pki: Pki
    folder: Path
    etcd_addresses: list[str]
    prefix: str
    port: int
    region: Region

    @asynccontextmanager
    async def lead(self, fate: Fate | None = None) -> AsyncIterator[CellPlane]:
        """Run one controller of the cell inside the block, which ends it; `fate` may strike it before that."""
        tls = self.pki.files(CELL, "controller", "h1")
        config = CellConfig(name=CELL, listen=f"127.0.0.1:{self.port}", store=self.etcd_addresses)
        fate = fate or Fate()
        async with MortalEtcd(self.etcd_addresses, fate) as etcd:
            plane = await Plane.open(etcd, self.prefix, format_version=1)
            async with plane:
                runner = CellPlane(config, plane, fate.mortal(agent_dial(tls, CELL, REGION)), SystemClock())
                async with running(runner.run(tls, REGION, lease_s=2, grace_s=0.0)):
                    await until_leading(runner)
                    yield runner

    @asynccontextmanager
    async def agent(self, host: str = "h1", *, vcpus: int = 4, memory_mib: int = 4096, port: int = 0) -> AsyncIterator["RunningAgent"]:
        """Run one agent with fake drivers inside the block; its state outlives it."""
        tls = self.pki.folder / f"agent-{host}"
        TlsFiles.in_folder(tls, "cell").write(self.pki.root.cert_pem, self.pki.pem(self.pki.identity(CELL, "agent", host)))
        state = self.folder / host
        (state / "guests").mkdir(parents=True, exist_ok=True)
        (state / "consoles").mkdir(exist_ok=True)
        (state / "volumes").parent.mkdir(exist_ok=True)
        (state / "files").mkdir(exist_ok=True)
        shared = self.folder / "volumes"
        shared.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (state / "volumes").symlink_to(shared)
        own_port, metrics_port = (port or free_ports(1)[0]), free_ports(1)[0]
        config = AgentConfig(
            region=REGION,
            cell=CELL,
            host=host,
            listen=f"127.0.0.1:{own_port}",
            metrics=f"127.0.0.1:{metrics_port}",
            tls=tls,
            state=state,
            network=NetworkConfig(tunnel_address="127.0.0.1", guest_files=state / "guests", responder=state / "responder", driver="fake"),
            compute=ComputeConfig(driver="fake", vcpus=vcpus, memory_mib=memory_mib, consoles=state / "consoles"),
            storage=StorageConfig(directory=state / "files"),
        )
        made = Agent(config, "boot-1", kvm.Virt("qemu", "guests are fake"))
        made.load()
        async with running(made.run()):
            yield RunningAgent(made, f"127.0.0.1:{own_port}", state)

    def beside(self, prefix: str = "") -> "Cloud":
        """Return another controller of the cell, or of the cell at `prefix`, at an address of its own."""
        port = free_ports(1)[0]
        region = Region(f"127.0.0.1:{port}", self.region.tls)
        return Cloud(self.pki, self.folder, self.etcd_addresses, prefix or self.prefix, port, region)

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[None]:
        """Run a controller that does not lead, since another does."""
        tls = self.pki.files(CELL, "controller", "h1")
        config = CellConfig(name=CELL, listen=f"127.0.0.1:{self.port}", store=self.etcd_addresses)
        async with Etcd(self.etcd_addresses) as etcd:
            plane = await Plane.open(etcd, self.prefix, format_version=1)
            async with plane:
                runner, started = CellPlane(config, plane, agent_dial(tls, CELL, REGION), SystemClock()), asyncio.Event()
                async with running(runner.run(tls, REGION, lease_s=2, grace_s=0.0, started=started)):
                    await started.wait()
                    yield

    async def all_keys(self, prefix: str) -> set[str]:
        async with Etcd(self.etcd_addresses) as etcd:
            plane = await Plane.open(etcd, self.prefix, format_version=1)
            return {plane.keys.relative(item.key) for item in await plane.scan(prefix)}

    async def keys(self) -> set[str]:
        """Return every key of the cell, but its bookkeeping, tombstones and events."""
        async with Etcd(self.etcd_addresses) as etcd:
            plane = await Plane.open(etcd, self.prefix, format_version=1)
            kept = ("record/end/", "record/event/", "record/obeyed/", "lead", "incarnation", "format", "token-key")
            found = [plane.keys.relative(item.key) for item in await plane.scan("")]
            return {key for key in found if not key.startswith(kept)}


@dataclass(frozen=True)
class RunningAgent:
    agent: Agent
    address: str
    state: Path


async def until_leading(runner: CellPlane) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                runner.leadership.term()
                return
            except Error:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(work: Any) -> AsyncGenerator[None, None]:
    """Run `work` beside the block and end it with the block."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        # Not `await task`: that could not tell its end from our own.
        await asyncio.wait([task])


def bundle(name: str = "hello", *, vcpus: int = 1, memory_mib: int = 64, base: Bundle | None = None, number: int = 1) -> Bundle:
    """Return a server with all its parts; with `base`, on its network, image and pool."""
    project = "projects/default"
    pool = base.pool if base else Pool(name="pools/main", uid=new_uid(), generation=1, spec=Pool.Spec(driver=Pool.FAKE, default=True))
    image = (
        base.image
        if base
        else Image(
            name=f"{project}/images/deb",
            uid=new_uid(),
            generation=1,
            spec=Image.Spec(format=Image.RAW, size_bytes=1 << 20, pool=pool.name, pool_uid=pool.uid),
        )
    )
    network = base.network if base else Network(name=f"{project}/networks/n", uid=new_uid(), generation=1, spec=Network.Spec(vni=77))
    subnet = (
        base.subnet
        if base
        else Subnet(
            name=f"{project}/subnets/s",
            uid=new_uid(),
            generation=1,
            spec=Subnet.Spec(network=network.name, network_uid=network.uid, cidr="10.0.0.0/24", gateway="10.0.0.1"),
        )
    )
    server = Server(name=f"{project}/servers/{name}", uid=new_uid(), generation=1)
    owner: dict[str, Any] = {"owner": server.name, "owner_uid": server.uid}
    volume = Volume(
        name=f"{project}/volumes/{name}-root",
        uid=new_uid(),
        generation=1,
        **owner,
        spec=Volume.Spec(size_gib=1, image=image.name, image_uid=image.uid, pool=pool.name, pool_uid=pool.uid),
    )
    attachment = Attachment(
        name=f"{project}/attachments/{name}-root",
        uid=new_uid(),
        generation=1,
        **owner,
        spec=Attachment.Spec(server=server.name, server_uid=server.uid, volume=volume.name, volume_uid=volume.uid, root=True),
    )
    port = Port(
        name=f"{project}/ports/{name}-0",
        uid=new_uid(),
        generation=1,
        **owner,
        spec=Port.Spec(
            network=network.name,
            network_uid=network.uid,
            subnet=subnet.name,
            subnet_uid=subnet.uid,
            address=f"10.0.0.{9 + number}",
            mac=f"02:6b:00:00:00:{number:02x}",
            prefix_length=24,
            server=server.name,
            server_uid=server.uid,
        ),
    )
    server.spec.CopyFrom(
        Server.Spec(
            flavor="flavors/tiny",
            image=image.name,
            image_uid=image.uid,
            vcpus=vcpus,
            memory_mib=memory_mib,
            power=Server.RUNNING,
            nics=[Server.Nic(network=network.name, network_uid=network.uid, port=port.name, port_uid=port.uid)],
            root_volume=volume.name,
            root_volume_uid=volume.uid,
            pool=pool.name,
            pool_uid=pool.uid,
        )
    )
    return Bundle(server, volume, attachment, port, network, subnet, pool, image)
