"""The controller as a process: both planes over a store with TLS, cell.v1 between them, ended by a signal, lean where it can be."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kumo.api.fleet.v1 import pool_pb2, pool_pb2_grpc
from kumo.api.identity.v1 import project_pb2, project_pb2_grpc
from kumo.authority import Subject, issue, new_root
from kumo.errors import Unavailable
from kumo.ids import new_uid
from kumo.rpc.client import channel
from kumo.tls import TlsFiles
from tests.controller.region.region_process import eventually
from tests.etcd import Member, free_ports
from tests.pki import Pki

BOTH = """
region = "{region}"
host = "h1"
tls = "{tls}"
metrics = "127.0.0.1:0"

[region_plane]
listen = "127.0.0.1:{api}"
store = ["{store}"]

[region_plane.cells.a]
h1 = "127.0.0.1:{cell}"

[cell_plane]
name = "a"
listen = "127.0.0.1:{cell}"
store = ["{store}"]
"""


class Site:
    """What one controller's process needs on disk, and how to reach it."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store = folder, store
        self.pki = Pki(folder, region=f"r{new_uid()[-12:]}")
        self.api, self.cell = free_ports(2)
        for name, plane in (("region", "region"), ("cell", "a")):
            files = TlsFiles.in_folder(folder, name)
            files.write(self.pki.root.cert_pem, self.pki.pem(self.pki.identity(plane, "controller")))

    def config(self, text: str = BOTH) -> Path:
        path = self.folder / "config.toml"
        path.write_text(text.format(region=self.pki.region, tls=self.folder, store=self.store, api=self.api, cell=self.cell))
        return path

    def store_flags(self, client: str, peer: str) -> dict[str, str]:
        """Write the certificates of etcd and of its users; return how etcd is started."""
        now, life = datetime.now(UTC), timedelta(hours=1)
        root = new_root("Kumo test etcd", now)
        tls = {"": Subject("etcd", addresses=("127.0.0.1",)), "etcd-region": Subject("region"), "etcd-cell": Subject("cell")}
        for name, subject in tls.items():
            cert = name or "server"
            TlsFiles(self.folder / "etcd-ca.crt", self.folder / f"{cert}.crt", self.folder / f"{cert}.key").write(
                root.cert_pem, issue(root, subject, now, life)
            )
        return {
            "name": "m0",
            "data-dir": str(self.folder / "m0"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"m0={peer}",
            "cert-file": str(self.folder / "server.crt"),
            "key-file": str(self.folder / "server.key"),
            "trusted-ca-file": str(self.folder / "etcd-ca.crt"),
            "client-cert-auth": "true",
            "unsafe-no-fsync": "true",
            "max-txn-ops": "1024",
            "logger": "zap",
            "log-level": "warn",
        }

    @asynccontextmanager
    async def dialled(self) -> AsyncIterator[Any]:
        name = self.pki.identity("region", "controller").dns
        async with channel(f"127.0.0.1:{self.api}", self.pki.root.cert_pem, server_name=name) as to_region:
            yield to_region


@asynccontextmanager
async def controller(config: Path, *, code: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    argv = ["-c", code] if code else ["-m", "controller.main", "--config", str(config)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, cwd=Path(__file__).parents[2], stderr=asyncio.subprocess.PIPE, limit=1 << 20
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A store that knows its clients by their certificates, as the program expects it."""
    port, peer = free_ports(2)
    site = Site(tmp_path, f"127.0.0.1:{port}")
    flags = site.store_flags(f"https://127.0.0.1:{port}", f"http://127.0.0.1:{peer}")
    member = Member("m0", (port, peer), tmp_path / "m0", [f"--{key}={value}" for key, value in flags.items()])
    try:
        member.start()
        yield site
    finally:
        member.end()


async def test_one_process_runs_both_planes_and_the_cell_is_told_by_the_region(site: Site) -> None:
    async with controller(site.config()) as process, site.dialled() as to_region:
        pools: Any = pool_pb2_grpc.PoolsStub(to_region)
        projects: Any = project_pb2_grpc.ProjectsStub(to_region)

        async def serves() -> bool:
            try:
                await projects.GetProject(project_pb2.GetProjectRequest(name="projects/default"))
            except Unavailable:
                return False
            return True

        await eventually(serves, 30)
        pool = pool_pb2.Pool(spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.FAKE, default=True))
        await pools.CreatePool(pool_pb2.CreatePoolRequest(pool_id="main", pool=pool))

        async def reported() -> bool:
            found = await pools.GetPool(pool_pb2.GetPoolRequest(name="pools/main"))
            return bool(found.status.observed_generation == found.generation)

        await eventually(reported, 15)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def test_a_configuration_that_cannot_be_is_named_with_its_fix(tmp_path: Path) -> None:
    site = Site(tmp_path, "127.0.0.1:1")
    async with controller(site.config(BOTH + "\n[nonsense]\n")) as process:
        _, said = await process.communicate()
        assert process.returncode == 1
        assert b"nonsense" in said
        assert b'"fix"' in said


async def test_a_process_that_runs_the_region_alone_does_without_the_schedulers_arrays() -> None:
    code = "import sys, controller.main, controller.region.plane; print('numpy' in sys.modules or 'scheduler' in sys.modules)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    said, _ = await process.communicate()
    assert said.strip() == b"False"
