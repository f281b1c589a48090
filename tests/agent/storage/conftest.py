"""Fixtures of the storage tests: all drivers behind one name, and pools for them."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
import rbd

from agent.stamps import Terms
from agent.state import StateFiles
from agent.storage.checks import ImageChecks, ImageLimits
from agent.storage.driver import StorageDriver
from agent.storage.fake import FakeDriver
from agent.storage.file import FileDriver
from agent.storage.imports import ImageImports
from agent.storage.rbd import RbdDriver
from agent.storage.sandbox import Sandbox
from agent.storage.service import Storage
from agent.storage.staging import Staging, StagingLimits
from kumo.api.agent.v1 import storage_pb2_grpc
from kumo.api.agent.v1.storage_pb2 import (
    DeleteImageRequest,
    DescribeImageRequest,
    ImageFacts,
    ImportImageRequest,
    PoolReference,
    UploadHead,
    UploadImageRequest,
    VolumeFacts,
)
from kumo.api.type.v1.stamp_pb2 import Stamp, Term
from kumo.ids import new_uid
from kumo.rpc.client import channel
from kumo.rpc.identity import PeerRule, Peers
from kumo.rpc.server import INTERNAL, Server
from storage.block.names import volume_name
from storage.directory.locks import client_of
from storage.image import Image
from storage.rados import Access
from tests.ceph import Ceph
from tests.pki import Pki


async def until(check: Callable[[], Awaitable[object]], limit_s: float = 20.0) -> None:
    """Wait until `check()` says something true."""
    async with asyncio.timeout(limit_s):
        while not await check():  # noqa: ASYNC110  # what is waited for has no event to hand out
            await asyncio.sleep(0.01)


class World(Protocol):
    """What a test does to a backend behind the driver's back."""

    pool: PoolReference

    async def write(self, uid: str, data: bytes, offset: int = 0) -> None: ...

    async def read(self, uid: str, offset: int, length: int) -> bytes: ...

    def opened(self, uid: str) -> contextlib.AbstractAsyncContextManager[str]:
        """Have another client hold the volume open, with its lock; the address of that client."""

    async def left(self) -> list[str]:
        """Return the names of all images and volumes that were not there before, hidden ones among them."""


@dataclass
class RbdWorld:
    ceph: Ceph
    pool: PoolReference
    # What earlier tests left to its ghosts: clients that were killed watch their images for half a minute.
    before: frozenset[str] = frozenset()

    async def write(self, uid: str, data: bytes, offset: int = 0) -> None:
        def work() -> None:
            with self.ceph.admin() as cluster, cluster.open_ioctx("volumes") as io, rbd.Image(io, volume_name(uid)) as image:
                image.write(data, offset)

        await asyncio.to_thread(work)

    async def read(self, uid: str, offset: int, length: int) -> bytes:
        def work() -> bytes:
            with (
                self.ceph.admin() as cluster,
                cluster.open_ioctx("volumes") as io,
                rbd.Image(io, volume_name(uid), read_only=True) as image,
            ):
                return bytes(image.read(offset, length))

        return await asyncio.to_thread(work)

    @contextlib.asynccontextmanager
    async def opened(self, uid: str) -> AsyncIterator[str]:
        with self.ceph.admin() as cluster, cluster.open_ioctx("volumes") as io, rbd.Image(io, volume_name(uid)) as image:
            await asyncio.to_thread(image.write, b"x", 0)
            yield cluster.get_addrs()

    async def left(self) -> list[str]:
        def work() -> list[str]:
            found: list[str] = []
            with self.ceph.admin() as cluster:
                for pool in ("volumes", "images"):
                    with cluster.open_ioctx(pool) as io:
                        found += rbd.RBD().list(io)
                        found += [entry["name"] for entry in rbd.RBD().trash_list(io)]
                        found += [one.key for one in io.list_objects() if one.key.startswith(("kumo.owner", "rbd_data"))]
            return [name for name in found if name not in self.before]

        return await asyncio.to_thread(work)


@dataclass
class FakeWorld:
    driver: FakeDriver
    pool: PoolReference
    directory: Path

    def path(self, uid: str) -> Path:
        return self.directory / self.pool.uid / "volumes" / f"{uid}.raw"

    async def write(self, uid: str, data: bytes, offset: int = 0) -> None:
        await asyncio.to_thread(_write_at, self.path(uid), data, offset)

    async def read(self, uid: str, offset: int, length: int) -> bytes:
        return await asyncio.to_thread(_read_at, self.path(uid), offset, length)

    @contextlib.asynccontextmanager
    async def opened(self, uid: str) -> AsyncIterator[str]:
        await self.driver.open_as(self.pool, uid, "127.0.0.1:0/7")
        yield "127.0.0.1:0/7"
        await self.driver.close_as(self.pool, uid, "127.0.0.1:0/7")

    async def left(self) -> list[str]:
        return [str(path.name) for path in (self.directory / self.pool.uid).glob("*/*") if path.parent.name != "open"]


@dataclass
class FileWorld:
    """A pool in a directory; who opens a volume there is a real QEMU."""

    pool: PoolReference
    directory: Path

    def path(self, uid: str) -> Path:
        return self.directory / self.pool.uid / "volumes" / uid / "disk"

    async def write(self, uid: str, data: bytes, offset: int = 0) -> None:
        await asyncio.to_thread(_write_at, self.path(uid), data, offset)

    async def read(self, uid: str, offset: int, length: int) -> bytes:
        return await asyncio.to_thread(_read_at, self.path(uid), offset, length)

    @contextlib.asynccontextmanager
    async def opened(self, uid: str) -> AsyncIterator[str]:
        async with qemu_on(self.path(uid)):
            address = client_of(self.path(uid))
            assert address is not None, "QEMU locks what it writes to"
            yield address

    async def left(self) -> list[str]:
        kinds = ("volumes", "images", "making", "trash")
        return [path.name for kind in kinds for path in (self.directory / self.pool.uid / kind).glob("*")]


def qemu_command(disk: Path) -> list[str]:
    """Return what runs a guest that never begins, with a raw file as its disk."""
    bare = ["-S", "-M", "q35", "-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-nic", "none"]
    return ["qemu-system-x86_64", *bare, "-drive", f"file={disk},format=raw,if=virtio"]


@contextlib.asynccontextmanager
async def qemu_on(disk: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Have a QEMU hold a raw file open for writing."""
    process = await asyncio.create_subprocess_exec(*qemu_command(disk))

    async def is_locked() -> bool:
        assert process.returncode is None, "QEMU ended"
        return client_of(disk) is not None

    try:
        await until(is_locked)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _write_at(path: Path, data: bytes, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _read_at(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


@dataclass
class Backend:
    """A driver and the world behind it."""

    driver: StorageDriver
    world: World
    # The volumes that earlier tests left to their ghosts.
    before: frozenset[str] = frozenset()

    async def volumes(self) -> list[VolumeFacts]:
        """Return the volumes of this test."""
        return [volume for volume in await self.driver.list_volumes(self.pool) if volume.uid not in self.before]

    @property
    def pool(self) -> PoolReference:
        return self.world.pool

    async def import_raw(self, path: Path, content: bytes, size_bytes: int = 0) -> str:
        """Import `content`, followed by zeros up to `size_bytes`, and return the uid of the image."""
        uid = new_uid()
        await asyncio.to_thread(path.write_bytes, content)
        image = Image(uid, "0" * 64, len(content), size_bytes or len(content))
        await self.driver.import_image(self.pool, image, path, lambda _: None)
        return uid


@pytest.fixture(params=["rbd", "file", "fake"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    pool = PoolReference(uid=new_uid(), driver=request.param, volume_pool="volumes", image_pool="images")
    if request.param == "fake":
        fake = FakeDriver(tmp_path / "fake")
        yield Backend(fake, FakeWorld(fake, pool, tmp_path / "fake"))
        await fake.close()
        return
    if request.param == "file":
        (tmp_path / "files").mkdir()
        file = FileDriver(tmp_path / "files")
        yield Backend(file, FileWorld(pool, tmp_path / "files"))
        await file.close()
        return
    ceph: Ceph = request.getfixturevalue("ceph")
    driver = RbdDriver(Access(ceph.conf_file, ceph.user))
    world = RbdWorld(ceph, pool)
    world.before = frozenset(await world.left())
    yield Backend(driver, world, frozenset(volume.uid for volume in await driver.list_volumes(pool)))
    await driver.purge(pool)
    await driver.close()


@pytest.fixture
def some_file(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "some.raw"


@dataclass
class Desk:
    """A storage servicer behind a real listener, and the leader's side of it."""

    stub: "storage_pb2_grpc.StorageAsyncStub"
    pool: PoolReference
    staging: Staging
    service: Storage
    incarnation: str
    sequence: int = 0

    def stamp(self, *, revision: int = 7, generation: int = 1) -> Stamp:
        self.sequence += 1
        return Stamp(term=Term(incarnation=self.incarnation, create_revision=revision), sequence=self.sequence, generation=generation)

    def begin_upload(self) -> Any:
        """The generated types do not know that reading may end, and so call what is read an object."""
        return self.stub.UploadImage()

    async def upload(self, uid: str, content: bytes, *, size_bytes: int = 0, piece_bytes: int = 1 << 20) -> int:
        """Upload from where the first answer says, and return what is kept at the end."""
        call = self.begin_upload()
        await call.write(UploadImageRequest(head=UploadHead(stamp=self.stamp(), uid=uid, size_bytes=size_bytes or len(content))))
        received: int = (await call.read()).received_bytes
        for offset in range(received, len(content), piece_bytes):
            await call.write(UploadImageRequest(offset=offset, data=content[offset : offset + piece_bytes]))
        await call.done_writing()
        while (answer := await call.read()) is not grpc.aio.EOF:
            received = answer.received_bytes
        return received

    async def import_(self, uid: str, file_format: str, size_bytes: int, sha256: str = "") -> ImageFacts:
        """Have an image imported and return how that ended."""
        request = ImportImageRequest(stamp=self.stamp(), uid=uid, pool=self.pool, format=file_format, size_bytes=size_bytes, sha256=sha256)
        facts = (await self.stub.ImportImage(request)).facts
        async with asyncio.timeout(30):
            while facts.stage == ImageFacts.IMPORTING:
                await asyncio.sleep(0.02)
                facts = await self.describe(uid)
        return facts

    async def take(self, path: Path, file_format: str) -> ImageFacts:
        content = await asyncio.to_thread(path.read_bytes)
        uid = new_uid()
        assert await self.upload(uid, content) == len(content)
        return await self.import_(uid, file_format, len(content), hashlib.sha256(content).hexdigest())

    async def describe(self, uid: str) -> ImageFacts:
        return (await self.stub.DescribeImage(DescribeImageRequest(uid=uid, pool=self.pool))).facts

    async def delete(self, uid: str) -> None:
        await self.stub.DeleteImage(DeleteImageRequest(stamp=self.stamp(), uid=uid, pool=self.pool))

    def staged_files(self) -> list[str]:
        return sorted(str(path.relative_to(self.staging.directory)) for path in self.staging.directory.rglob("*"))


@contextlib.asynccontextmanager
async def desk_for(backend: Backend, pki: Pki, folder: Path, limits: ImageLimits, room: StagingLimits) -> AsyncIterator[Desk]:
    """Serve storage with what is kept in `folder`, as main wires it."""
    files = StateFiles(folder / "state")
    terms = Terms(files)
    terms.load()
    staging = Staging(folder / "staging", files, room)
    staging.load()
    imports = ImageImports(staging, ImageChecks(Sandbox(staging.directory), limits, staging.room_bytes))
    service = Storage(terms, {backend.pool.driver: backend.driver}, staging, imports)
    server = Server("127.0.0.1:0", pki.server_tls("a", "agent"), Peers([PeerRule("a", "local")]), port=INTERNAL)
    server.add(storage_pb2_grpc.add_StorageServicer_to_server, service)
    async with asyncio.TaskGroup() as tasks, server:
        running = tasks.create_task(service.run())
        name = pki.identity("a", "agent").dns
        async with channel(server.address, pki.credentials("a", "controller"), server_name=name) as dialled:
            stub = storage_pb2_grpc.StorageStub(dialled)
            yield Desk(stub, backend.pool, staging, service, new_uid())
        running.cancel()
    staging.close()
    files.close()


LIMITS = ImageLimits(virtual_bytes=8 << 30, data_bytes=48 << 20, check_s=20, convert_s=20)


@pytest.fixture
async def desk(backend: Backend, pki: Pki, tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_for(backend, pki, tmp_path / "agent", LIMITS, StagingLimits(total_bytes=256 << 20)) as desk:
        yield desk
