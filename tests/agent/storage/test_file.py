"""A pool of files beside what every driver does: a disk has one writer, what died holds no lock, everything is there after a restart."""

import asyncio
import os
from pathlib import Path

import pytest

from agent.storage.driver import DeadClient, WantedVolume
from agent.storage.file import FileDriver
from agent.storage.proof import ProcessGone, start_ticks_of
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.errors import FailedPrecondition
from kumo.ids import new_uid
from storage.directory.locks import alone, client_of
from storage.image import Image
from tests.agent.storage.conftest import qemu_command, qemu_on

MIB = 1 << 20
MINE = Owner(server_uid="s1", host="h1", epoch=Epoch(cell=1, host=1))


@pytest.fixture
def pool() -> PoolReference:
    return PoolReference(uid=new_uid(), driver="file")


async def qemu_said(disk: Path) -> str:
    """Return what a QEMU says that cannot have a disk. Raises TimeoutError if it has it."""
    process = await asyncio.create_subprocess_exec(*qemu_command(disk), stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(20):
            return (await process.communicate())[1].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_disk_has_one_writer_and_none_while_it_is_deleted(tmp_path: Path, pool: PoolReference) -> None:
    driver, uid = FileDriver(tmp_path), new_uid()
    await driver.ensure_volume(pool, WantedVolume(uid, MIB, 1))
    disk = (await driver.disk_source(pool, uid)).path
    async with qemu_on(disk):
        assert "lock" in await qemu_said(disk)
    with alone(disk, uid):
        assert "lock" in await qemu_said(disk)
        with pytest.raises(FailedPrecondition, match="VOLUME_IN_USE"), alone(disk, uid):
            pass
    async with qemu_on(disk):
        pass
    await driver.close()


async def test_a_qemu_that_is_killed_holds_nothing(tmp_path: Path, pool: PoolReference) -> None:
    driver, uid = FileDriver(tmp_path), new_uid()
    await driver.ensure_volume(pool, WantedVolume(uid, MIB, 1))
    await driver.set_owner(pool, uid, Owner(), MINE)
    disk = (await driver.disk_source(pool, uid)).path
    async with qemu_on(disk) as process:
        addresses = await driver.client_addresses(pool, uid)
        proof = ProcessGone(process.pid, start_ticks_of(process.pid) or 0)
        with pytest.raises(FailedPrecondition, match="CLIENT_ALIVE"):
            await driver.break_dead_lock(pool, uid, DeadClient(MINE, addresses, proof))
    await driver.break_dead_lock(pool, uid, DeadClient(MINE, addresses, proof))
    assert client_of(disk) is None
    async with qemu_on(disk):
        with pytest.raises(FailedPrecondition, match="LOCK_FOREIGN"):
            await driver.break_dead_lock(pool, uid, DeadClient(MINE, addresses, proof))
    await driver.close()


async def test_everything_is_there_after_a_restart_and_what_was_half_made_goes(tmp_path: Path, pool: PoolReference) -> None:
    image, volume = new_uid(), new_uid()
    raw = tmp_path / "raw"
    raw.write_bytes(b"boot" * MIB)
    (tmp_path / "pools").mkdir()
    first = FileDriver(tmp_path / "pools")
    known = Image(image, "a" * 64, 4 * MIB, 4 * MIB)
    await first.import_image(pool, known, raw, lambda _: None)
    made = await first.ensure_volume(pool, WantedVolume(volume, 8 * MIB, 3, image))
    await first.set_owner(pool, volume, Owner(), MINE)
    await first.close()
    left = tmp_path / "pools" / pool.uid / "making" / f"{new_uid()}.1234"
    left.mkdir()

    second = FileDriver(tmp_path / "pools")
    assert await second.find_image(pool, image) == known
    made.owner.CopyFrom(MINE)
    assert await second.list_volumes(pool) == [made]
    await second.purge(pool)
    assert not left.exists()
    await second.close()


async def test_who_asks_twice_at_once_gets_one_volume_and_who_deletes_meanwhile_finds_none_later(
    tmp_path: Path, pool: PoolReference
) -> None:
    driver, image, uid = FileDriver(tmp_path), new_uid(), new_uid()
    raw = tmp_path / "raw"
    await asyncio.to_thread(raw.write_bytes, os.urandom(8 * MIB))
    await driver.import_image(pool, Image(image, "0" * 64, 8 * MIB, 8 * MIB), raw, lambda _: None)
    wanted = WantedVolume(uid, 16 * MIB, 1, image)
    first, second = await asyncio.gather(driver.ensure_volume(pool, wanted), driver.ensure_volume(pool, wanted))
    assert first == second
    await driver.delete_volume(pool, uid)
    again = asyncio.ensure_future(driver.ensure_volume(pool, wanted))
    await asyncio.sleep(0)
    await driver.delete_volume(pool, uid)
    await asyncio.gather(again, return_exceptions=True)
    assert await driver.list_volumes(pool) == []
    await driver.purge(pool)
    assert not any((tmp_path / pool.uid / "making").iterdir())
    await driver.close()
