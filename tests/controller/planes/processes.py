"""Both planes as processes of their own, two controllers of each, over one etcd, with agents whose drivers are the fakes.

Every connection between them goes through a proxy of the test's, to be cut, and each process can be killed, paused and slowed down.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kumo.api.identity.v1 import project_pb2
from kumo.authority import Subject, issue, new_root
from kumo.errors import Error
from kumo.rpc.client import channel
from kumo.store import ops
from kumo.store.client import Etcd
from kumo.store.etcd import rpc_pb2
from kumo.tls import TlsFiles
from tests.agent.process import Agent
from tests.controller.region.region_process import Api
from tests.etcd import Cluster, cluster, free_ports
from tests.pki import Pki
from tests.tcp_proxy import Proxy, proxy_to

ROOT = Path(__file__).parents[3]
REGION, CELL = "local", "a"
DEADLINE_S = 30.0
LEASE_S = 2
COMPUTE = '[compute]\ndriver = "fake"\nvcpus = 16\nmemory_mib = 16384\nconsoles = "{consoles}"\n'


@dataclass
class Controller:
    """One process of one plane. `own` is the proxy before its listener, `store` the one before its etcd."""

    plane: str
    host: str
    folder: Path
    own: Proxy
    store: Proxy
    lease_s: int = LEASE_S
    # Settings that follow those of every process, and what comes before the program in its command.
    more: str = ""
    before: tuple[str, ...] = ()
    process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        return f"{self.plane}-{self.host}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    def log(self) -> str:
        return self.log_file.read_text()

    async def start(self) -> None:
        path = self.folder / f"{self.name}.toml"
        path.write_text(
            f'region = "{REGION}"\nhost = "{self.host}"\ntls = "{self.folder}/{self.host}"\nmetrics = "127.0.0.1:0"\n'
            f"lease_s = {self.lease_s}\n\n[{self.plane}_plane]\n"
            f'listen = "127.0.0.1:{self.own.target}"\nadvertise = "{self.own.address}"\nstore = ["{self.store.address}"]\n{self.more}'
        )
        with self.log_file.open("ab") as log:
            # It dies with the tests, also when those are killed and can clean up nothing.
            self.process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", *self.before, "controller.main", "--config", str(path)),
                cwd=ROOT,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
            )

    async def until_listening(self) -> None:
        """Return once it accepts connections."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.own.target)
                    writer.transport.abort()
                    return
                await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            async with asyncio.timeout(DEADLINE_S):
                await self.process.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@dataclass
class Planes:
    """Everything of one region with one cell. `apis` are the region's controllers, by host."""

    folder: Path
    pki: Pki
    store: Cluster
    etcd: Etcd
    region: dict[str, Controller]
    cell: dict[str, Controller]
    apis: dict[str, Api]
    agents: dict[str, Agent] = field(default_factory=dict)
    # What the cell dials, by host.
    to_agents: dict[str, Proxy] = field(default_factory=dict)

    @property
    def api(self) -> Api:
        return self.apis["c1"]

    @property
    def controllers(self) -> list[Controller]:
        return [*self.region.values(), *self.cell.values()]

    def key(self, plane: str, name: str = "") -> bytes:
        return (f"/kumo/region/{REGION}/{name}" if plane == "region" else f"/kumo/cell/{CELL}/{name}").encode()

    async def leader(self, plane: str, *, but: str = "") -> Controller:
        """Return who leads `plane` and has begun to, once anybody does, and not `but`."""
        members = self.region if plane == "region" else self.cell
        async with asyncio.timeout(DEADLINE_S):
            while True:
                address = await self.leading(plane)
                found = next((one for one in members.values() if one.own.address == address and one.host != but), None)
                if found is not None:
                    return found
                await asyncio.sleep(0.05)

    async def leading(self, plane: str) -> str:
        """Return the address of who leads `plane` now, or ""."""
        found = (await self.etcd.range(rpc_pb2.RangeRequest(key=self.key(plane, "lead")))).kvs
        return found[0].value.decode() if found else ""

    async def revision(self) -> int:
        """Return the present revision of the store."""
        return (await self.etcd.range(rpc_pb2.RangeRequest(key=self.key("region"), count_only=True))).header.revision

    async def cell_keys(self, prefix: str, holding: str) -> dict[str, bytes]:
        """Return what is in the cell's store under `prefix` with `holding` in its key."""
        start = self.key("cell", prefix)
        found = await self.etcd.range(rpc_pb2.RangeRequest(key=start, range_end=ops.prefix_end(start)))
        return {key: item.value for item in found.kvs if holding in (key := item.key.decode())}

    async def follower(self, plane: str) -> Controller:
        leader = await self.leader(plane)
        members = self.region if plane == "region" else self.cell
        return next(one for one in members.values() if one is not leader)

    @asynccontextmanager
    async def agent(self, host: str, before: tuple[str, ...] = ()) -> AsyncIterator[Agent]:
        """Run the agent of one host; all share one pool."""
        made = self.agents.get(host) or self._new_agent(host)
        made.before = before
        await made.start()
        try:
            async with proxy_to(made.port) as proxy:
                self.to_agents[host] = proxy
                yield made
        finally:
            await made.end()

    def _new_agent(self, host: str) -> Agent:
        folder, shared = self.folder / f"agent-{host}", self.folder / "volumes"
        for one in (folder / "state", folder / "guests", folder / "consoles", shared):
            one.mkdir(parents=True, exist_ok=True)
        (folder / "state" / "volumes").symlink_to(shared)
        made = self.agents[host] = Agent(folder, self.pki, COMPUTE, host=host)
        return made


def store_files(folder: Path) -> TlsFiles:
    """Write the certificates of etcd and of its users."""
    now, life = datetime.now(UTC), timedelta(days=2)
    root = new_root("Kumo test etcd", now - timedelta(hours=3))
    subjects = {"server": Subject("etcd", addresses=("127.0.0.1",)), "etcd-region": Subject("region"), "etcd-cell": Subject("cell")}
    for name, subject in subjects.items():
        files = TlsFiles(folder / "etcd-ca.crt", folder / f"{name}.crt", folder / f"{name}.key")
        files.write(root.cert_pem, issue(root, subject, now - timedelta(hours=2), life))
    return TlsFiles(folder / "etcd-ca.crt", folder / "server.crt", folder / "server.key")


def write_tls(pki: Pki, folder: Path, host: str) -> None:
    """Write what the processes of one host present; their etcd's certificates are those of all."""
    own = folder / host
    own.mkdir()
    for name in ("etcd-ca.crt", "etcd-region.crt", "etcd-region.key", "etcd-cell.crt", "etcd-cell.key"):
        (own / name).symlink_to(folder / name)
    for name, plane in (("region", "region"), ("cell", CELL)):
        pem = pki.pem(pki.identity(plane, "controller", host), lifetime=timedelta(days=2))
        TlsFiles.in_folder(own, name).write(pki.root.cert_pem, pem)


@asynccontextmanager
async def planes(
    folder: Path, *, hosts: tuple[str, ...] = ("c1", "c2"), lease_s: int = LEASE_S, before: dict[str, tuple[str, ...]] | None = None
) -> AsyncIterator[Planes]:
    """Run etcd and the controllers of both planes, which answer when the block begins; `before` comes before the programs of a host."""
    pki = Pki(folder / "pki")
    (folder / "pki").mkdir()
    server = store_files(folder)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(cluster(tls=server))
        etcd = await stack.enter_async_context(
            Etcd(store.addresses, TlsFiles(folder / "etcd-ca.crt", folder / "etcd-region.crt", folder / "etcd-region.key"))
        )
        made: dict[str, dict[str, Controller]] = {"region": {}, "cell": {}}
        for host in hosts:
            write_tls(pki, folder, host)
            for plane, members in made.items():
                own = await stack.enter_async_context(proxy_to(free_ports(1)[0]))
                to_store = await stack.enter_async_context(proxy_to(store.members[0].port))
                members[host] = Controller(plane, host, folder, own, to_store, lease_s, before=(before or {}).get(host, ()))
        cells = "\n".join(f'{host} = "{one.own.address}"' for host, one in made["cell"].items())
        for one in made["region"].values():
            one.more = f"[region_plane.cells.{CELL}]\n{cells}\n"
        for one in made["cell"].values():
            one.more = f'name = "{CELL}"\n'
        apis = {}
        for host, one in made["region"].items():
            name = pki.identity("region", "controller", host).dns
            dialled = await stack.enter_async_context(channel(one.own.address, pki.root.cert_pem, server_name=name))
            apis[host] = Api(dialled)
        running = Planes(folder, pki, store, etcd, made["region"], made["cell"], apis)
        try:
            for controller in running.controllers:
                await controller.start()
            for host in hosts:
                await until_answering(running.apis[host])
            yield running
        finally:
            for controller in running.controllers:
                await controller.end()


async def until_answering(api: Api) -> None:
    async def answers() -> bool:
        try:
            await api.projects.GetProject(project_pb2.GetProjectRequest(name="projects/default"), timeout=2.0)
        except Error:
            return False
        return True

    await until(answers)


async def until(check: Any, deadline_s: float = DEADLINE_S, what: str = "") -> None:
    """Wait until `check`, an async function, says so; an answer that is not to be had now is no."""
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    if await check():
                        return
                except Error:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:.0f} s: {what or check.__name__}") from None
