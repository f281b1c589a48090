"""Fixtures of the storage tests: both drivers behind one name, and pools for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import rbd

from agent.storage.driver import ImageOnPool, StorageDriver
from agent.storage.fake import FakeDriver
from agent.storage.rbd import RbdDriver
from kumo.api.agent.v1.storage_pb2 import PoolReference
from kumo.ids import new_uid
from storage.block.names import volume_name
from storage.rados import Access
from tests.ceph import Ceph


class World(Protocol):
    """What a test does to a backend behind the driver's back."""

    pool: PoolReference

    async def write(self, uid: str, data: bytes, offset: int = 0) -> None: ...

    async def read(self, uid: str, offset: int, length: int) -> bytes: ...

    def opened(self, uid: str) -> contextlib.AbstractAsyncContextManager[str]:
        """Have another client hold the volume open, with its lock; the address of that client."""

    async def left(self) -> list[str]:
        """Return the names of all images and volumes, hidden ones among them."""


@dataclass
class RbdWorld:
    ceph: Ceph
    pool: PoolReference

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
            return found

        return await asyncio.to_thread(work)


@dataclass
class FakeWorld:
    driver: FakeDriver
    pool: PoolReference
    directory: Path

    def path(self, uid: str) -> Path:
        return self.directory / self.pool.uid / "volumes" / f"{uid}.raw"

    async def write(self, uid: str, data: bytes, offset: int = 0) -> None:
        def work() -> None:
            with self.path(uid).open("r+b") as file:
                file.seek(offset)
                file.write(data)

        await asyncio.to_thread(work)

    async def read(self, uid: str, offset: int, length: int) -> bytes:
        def work() -> bytes:
            with self.path(uid).open("rb") as file:
                file.seek(offset)
                return file.read(length)

        return await asyncio.to_thread(work)

    @contextlib.asynccontextmanager
    async def opened(self, uid: str) -> AsyncIterator[str]:
        await self.driver.open_as(self.pool, uid, "127.0.0.1:0/7")
        yield "127.0.0.1:0/7"
        await self.driver.close_as(self.pool, uid, "127.0.0.1:0/7")

    async def left(self) -> list[str]:
        return [str(path.name) for path in (self.directory / self.pool.uid).glob("*/*") if path.parent.name != "open"]


@dataclass
class Backend:
    """A driver and the world behind it."""

    driver: StorageDriver
    world: World

    @property
    def pool(self) -> PoolReference:
        return self.world.pool

    async def import_raw(self, path: Path, content: bytes, size_bytes: int = 0) -> str:
        """Import `content`, followed by zeros up to `size_bytes`, and return the uid of the image."""
        uid = new_uid()
        await asyncio.to_thread(path.write_bytes, content)
        image = ImageOnPool(uid, "0" * 64, len(content), size_bytes or len(content))
        await self.driver.import_image(self.pool, image, path, lambda _: None)
        return uid


@pytest.fixture(params=["rbd", "fake"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    pool = PoolReference(uid=new_uid(), driver=request.param, volume_pool="volumes", image_pool="images")
    if request.param == "fake":
        fake = FakeDriver(tmp_path / "fake")
        yield Backend(fake, FakeWorld(fake, pool, tmp_path / "fake"))
        await fake.close()
        return
    ceph: Ceph = request.getfixturevalue("ceph")
    driver = RbdDriver(Access(ceph.conf_file, ceph.user))
    yield Backend(driver, RbdWorld(ceph, pool))
    await driver.purge(pool)
    await driver.close()


@pytest.fixture
def some_file(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "some.raw"
