"""A kumo-agent of a test's own, as a process, and the leader's side of its connection."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from kumo.api.agent.v1 import agent_pb2_grpc, compute_pb2_grpc, network_pb2_grpc, storage_pb2_grpc
from kumo.api.agent.v1.agent_pb2 import Facts, WatchFactsRequest
from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp, Term
from kumo.ids import new_uid
from kumo.rpc.client import channel, opened
from tests.pki import Pki

CHECKOUT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Agent:
    """One agent: its directory outlives its process, which can be killed and started again."""

    directory: Path
    pki: Pki
    sections: str = '[compute]\ndriver = "fake"\nconsoles = "{consoles}"\n'
    host: str = "h1"
    roles: tuple[str, ...] = ("compute", "network", "storage")
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None
    # What comes before the program in its command.
    before: tuple[str, ...] = ()

    def write_config(self, more: str = "") -> Path:
        tls = self.pki.files("a", "agent", self.host)
        folder = self.directory / "tls"
        folder.mkdir(exist_ok=True)
        for source, name in ((tls.ca, "ca.crt"), (tls.cert, "cell.crt"), (tls.key, "cell.key")):
            (folder / name).write_bytes(source.read_bytes())
        path = self.directory / "config.toml"
        path.write_text(
            f'region = "local"\ncell = "a"\nhost = "{self.host}"\nlisten = "127.0.0.1:{self.port}"\n'
            f'metrics = "127.0.0.1:{self.metrics_port}"\ntls = "{folder}"\nstate = "{self.directory}/state"\n'
            f"roles = [{', '.join(repr(role) for role in self.roles)}]\n{more}\n"
            f'[network]\ndriver = "fake"\ntunnel_address = "127.0.0.1"\n'
            f'guest_files = "{self.directory}/guests"\nresponder = "{self.directory}/responder.sock"\n'
            + self.sections.format(consoles=self.directory / "consoles")
        )
        return path

    async def start(self) -> None:
        path = self.write_config()
        with (self.directory / "agent.log").open("ab") as log:
            command = [sys.executable, "-m", *self.before, "agent.main", "--config", str(path)]
            self.process = await asyncio.create_subprocess_exec(*command, cwd=CHECKOUT, stderr=log, stdin=asyncio.subprocess.DEVNULL)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the process and return how it ended."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.directory / "agent.log").read_text()


@dataclass
class Leader:
    """A connection of the cell's leader."""

    wire: grpc.aio.Channel
    term: Term = field(default_factory=lambda: Term(incarnation=new_uid(), create_revision=5))
    sequence: int = 0

    def __post_init__(self) -> None:
        self.agents = agent_pb2_grpc.AgentsStub(self.wire)
        self.compute = compute_pb2_grpc.ComputeStub(self.wire)
        self.network = network_pb2_grpc.NetworkStub(self.wire)
        self.storage = storage_pb2_grpc.StorageStub(self.wire)

    def stamp(self, generation: int = 1) -> Stamp:
        self.sequence += 1
        return Stamp(term=self.term, sequence=self.sequence, epoch=Epoch(cell=1, host=1), generation=generation)

    async def until(self, is_so: Callable[[Facts], bool], deadline_s: float = 20.0) -> Facts:
        """Return the first message of a new watch of which `is_so`."""
        async with asyncio.timeout(deadline_s):
            async with opened(self.agents.WatchFacts(WatchFactsRequest(term=self.term))) as messages:
                async for facts in messages:
                    if is_so(facts):
                        return facts
        raise AssertionError("the watch ended")


@asynccontextmanager
async def running_agent(agent: Agent) -> AsyncIterator[Agent]:
    await agent.start()
    try:
        yield agent
    finally:
        await agent.end()


@asynccontextmanager
async def leader_of(agent: Agent, role: str = "controller", cell: str = "a") -> AsyncIterator[Leader]:
    """Dial the agent as soon as it listens."""
    identity = agent.pki.identity("a", "agent", agent.host)
    wire = channel(f"127.0.0.1:{agent.port}", agent.pki.credentials(cell, role), server_name=identity.dns)
    async with wire:
        async with asyncio.timeout(30):
            await wire.channel_ready()
        yield Leader(wire)
