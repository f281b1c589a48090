"""RBD: what is half made is finished, what a killed process leaves is taken away, and a dead client's lock is broken at once."""

import asyncio
import contextlib
import os
import random
import signal
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import rbd

from agent.storage.driver import DeadClient, RbdDisk, WantedVolume
from agent.storage.proof import ProcessGone, start_ticks_of
from agent.storage.rbd import RbdDriver
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.errors import FailedPrecondition
from kumo.ids import new_uid
from storage.block.names import importing_name, volume_name
from storage.image import Image
from storage.rados import Access
from tests.ceph import Ceph

MIB = 1 << 20
CHECKOUT = Path(__file__).parents[3]
POOL = PoolReference(uid="0198a000-0000-7000-8000-000000000001", driver="rbd", volume_pool="volumes", image_pool="images")

OPENS = """
import sys, rados, rbd
cluster = rados.Rados(conffile=sys.argv[1], name=sys.argv[2])
cluster.connect()
image = rbd.Image(cluster.open_ioctx("volumes"), sys.argv[3])
image.write(b"mine", 0)
image.flush()
print(cluster.get_addrs(), flush=True)
sys.stdin.readline()
image.close()
"""
IMPORTS = """
import asyncio, sys
from pathlib import Path
from agent.storage.rbd import RbdDriver
from kumo.api.agent.v1.storage_pb2 import PoolReference
from storage.image import Image
from storage.rados import Access
conf, user, uid, path = sys.argv[1:]
size = Path(path).stat().st_size
pool = PoolReference(uid=uid, driver="rbd", volume_pool="volumes", image_pool="images")
print("begins", flush=True)
asyncio.run(RbdDriver(Access(Path(conf), user)).import_image(pool, Image(uid, "0" * 64, size, size), Path(path), lambda _: None))
print("done", flush=True)
"""


@pytest.fixture
async def driver(ceph: Ceph) -> AsyncIterator[RbdDriver]:
    driver = RbdDriver(Access(ceph.conf_file, ceph.user))
    yield driver
    await driver.purge(POOL)
    await driver.close()


@contextlib.asynccontextmanager
async def child(code: str, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *arguments, stdin=PIPE, stdout=PIPE, cwd=CHECKOUT)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode().strip()


async def test_the_lock_of_a_client_that_was_killed_is_broken_at_once(ceph: Ceph, driver: RbdDriver) -> None:
    uid = new_uid()
    mine = Owner(server_uid="s1", host="h1", epoch=Epoch(cell=1, host=1))
    await driver.ensure_volume(POOL, WantedVolume(uid, MIB, 1))
    await driver.set_owner(POOL, uid, Owner(), mine)
    async with child(OPENS, str(ceph.conf_file), ceph.user, volume_name(uid)) as client:
        address = await line(client)
        assert await driver.client_addresses(POOL, uid) == [address]
        proof = ProcessGone(client.pid, start_ticks_of(client.pid) or 0)
        dead = DeadClient(mine, [address], proof)
        with pytest.raises(FailedPrecondition, match="CLIENT_ALIVE"):
            await driver.break_dead_lock(POOL, uid, dead)
        client.send_signal(signal.SIGKILL)
        await client.wait()
        async with asyncio.timeout(20):  # without it the next client waits for 30 s, and is refused
            await driver.break_dead_lock(POOL, uid, dead)
            await driver.break_dead_lock(POOL, uid, dead)
    async with asyncio.timeout(20), child(OPENS, str(ceph.conf_file), ceph.user, volume_name(uid)) as client:
        assert await line(client) != address
        assert await driver.lock_owners(POOL, uid) != [address]


async def test_a_volume_that_was_half_made_is_finished(ceph: Ceph, driver: RbdDriver) -> None:
    uid = new_uid()
    with ceph.admin() as admin, admin.open_ioctx("volumes") as io:
        rbd.RBD().create(io, volume_name(uid), MIB)
    assert [volume.generation for volume in await driver.list_volumes(POOL) if volume.uid == uid] == [0]
    facts = await driver.ensure_volume(POOL, WantedVolume(uid, 4 * MIB, 2))
    assert (facts.size_bytes, facts.generation) == (4 * MIB, 2)
    await driver.delete_volume(POOL, uid)


async def test_an_importer_that_is_killed_leaves_no_image_and_asking_again_makes_it(ceph: Ceph, driver: RbdDriver, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(40 * MIB))
    uid = new_uid()
    rng = random.Random(3)
    for _ in range(4):
        async with child(IMPORTS, str(ceph.conf_file), ceph.user, uid, str(path)) as importer:
            assert await line(importer) == "begins"
            await asyncio.sleep(rng.uniform(0.0, 0.4))  # a moment nobody chose
            with contextlib.suppress(ProcessLookupError):
                importer.send_signal(signal.SIGKILL)
            await importer.wait()
        found = await driver.find_image(POOL, uid)
        assert found is None or found.size_bytes == 40 * MIB
    async with child(IMPORTS, str(ceph.conf_file), ceph.user, uid, str(path)) as importer:
        assert [await line(importer), await line(importer)] == ["begins", "done"]
    volume = new_uid()
    await driver.ensure_volume(POOL, WantedVolume(volume, 40 * MIB, 1, uid))
    with ceph.admin() as admin, admin.open_ioctx("volumes") as io, rbd.Image(io, volume_name(volume), read_only=True) as image:
        assert image.read(0, 40 * MIB) == path.read_bytes()
    await driver.delete_volume(POOL, volume)
    await driver.delete_image(POOL, uid)
    assert await driver.find_image(POOL, uid) is None


async def test_an_importer_that_died_while_it_renamed_leaves_an_image_that_asking_again_makes_whole(
    ceph: Ceph, driver: RbdDriver, tmp_path: Path
) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(MIB))
    uid, volume = new_uid(), new_uid()
    wanted, attempt = Image(uid, "0" * 64, MIB, MIB), importing_name(uid, "dead")
    await driver.import_image(POOL, wanted, path, lambda _: None)
    with ceph.admin() as admin, admin.open_ioctx("images") as io:
        # As RBD's rename has it after its first step: both names have an object, and the directory knows the old one.
        identity = io.read(f"rbd_id.{uid}")
        io.write_full(f"rbd_id.{attempt}", identity)
        names = (uid, attempt, identity[4:].decode())
        io.execute("rbd_directory", "rbd", "dir_rename_image", b"".join(struct.pack("<I", len(one)) + one.encode() for one in names))
        assert uid not in rbd.RBD().list(io)
    assert await driver.find_image(POOL, uid) is None
    await driver.import_image(POOL, wanted, path, lambda _: None)
    await driver.ensure_volume(POOL, WantedVolume(volume, MIB, 1, uid))
    with ceph.admin() as admin, admin.open_ioctx("volumes") as io, rbd.Image(io, volume_name(volume), read_only=True) as image:
        assert image.read(0, MIB) == path.read_bytes()
    await driver.delete_volume(POOL, volume)
    await driver.delete_image(POOL, uid)
    await driver.purge(POOL)
    with ceph.admin() as admin, admin.open_ioctx("images") as io:
        assert [one.key for one in io.list_objects() if uid in one.key and one.key.startswith("rbd_id.")] == []


async def test_what_dead_importers_left_goes_and_what_live_ones_write_stays(ceph: Ceph, driver: RbdDriver) -> None:
    dead, live = importing_name(new_uid(), "1"), importing_name(new_uid(), "1")
    with ceph.admin() as admin, admin.open_ioctx("images") as io:
        for name in (dead, live):
            rbd.RBD().create(io, name, MIB)
        with rbd.Image(io, live):
            await driver.purge(POOL)
            names = rbd.RBD().list(io)
            assert live in names
            assert dead not in names
        await driver.purge(POOL)
        assert live not in rbd.RBD().list(io)


async def test_qemu_opens_a_volume_by_what_the_driver_says(ceph: Ceph, driver: RbdDriver) -> None:
    uid = new_uid()
    await driver.ensure_volume(POOL, WantedVolume(uid, MIB, 1))
    disk = await driver.disk_source(POOL, uid)
    assert isinstance(disk, RbdDisk)
    assert disk.key not in repr(disk)
    host, port = disk.monitors[0]
    name = f"rbd:{disk.pool}/{disk.image}:id={disk.user}:key={disk.key}:mon_host={host}\\:{port}:auth_supported=cephx"
    argv = ["qemu-io", "-f", "raw", "-c", "write -P 9 0 4096", "-c", "read -P 9 0 4096", name]
    process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(20):
        said, error = await process.communicate()
    assert process.returncode == 0, error
    assert b"verification failed" not in said
    await driver.delete_volume(POOL, uid)
