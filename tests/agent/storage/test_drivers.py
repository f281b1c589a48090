"""What every storage driver does, proved of each of them."""

import asyncio
import os
from pathlib import Path

import pytest

from agent.storage.driver import DeadClient, WantedVolume
from agent.storage.proof import BootGone, ProcessGone, start_ticks_of
from kumo.api.agent.v1.storage_pb2 import Owner
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.errors import FailedPrecondition, NotFound, Unavailable
from kumo.ids import new_uid
from storage.image import Image
from tests.agent.storage.conftest import Backend, until

MIB = 1 << 20
GONE = BootGone("then", "now")


def owner(server: str, cell: int, host: int, name: str = "h1") -> Owner:
    return Owner(server_uid=server, host=name, epoch=Epoch(cell=cell, host=host))


async def test_a_blank_volume_is_made_once(backend: Backend) -> None:
    wanted = WantedVolume(new_uid(), 8 * MIB, 3)
    first = await backend.driver.ensure_volume(backend.pool, wanted)
    await backend.world.write(wanted.uid, b"kept")
    again = await backend.driver.ensure_volume(backend.pool, wanted)
    assert first == again
    assert (first.size_bytes, first.generation, first.backend_name) == (8 * MIB, 3, f"kumo-{wanted.uid}")
    assert await backend.world.read(wanted.uid, 0, 4) == b"kept"
    await backend.driver.delete_volume(backend.pool, wanted.uid)


async def test_a_clone_reads_its_image_and_is_as_large_as_asked(backend: Backend, some_file: Path) -> None:
    image = await backend.import_raw(some_file, b"boot" * MIB)
    wanted = WantedVolume(new_uid(), 64 * MIB, 1, image)
    made = await backend.driver.ensure_volume(backend.pool, wanted)
    assert made.size_bytes == 64 * MIB
    assert await backend.world.read(wanted.uid, 3 * MIB, 8) == b"bootboot"
    await backend.world.write(wanted.uid, b"mine", 3 * MIB)
    async with backend.world.opened(wanted.uid) as address:
        assert await backend.driver.lock_owners(backend.pool, wanted.uid) == [address], "a clone has a lock, whatever its image has"
    other = WantedVolume(new_uid(), 4 * MIB, 1, image)
    await backend.driver.ensure_volume(backend.pool, other)
    assert await backend.world.read(other.uid, 3 * MIB, 4) == b"boot"
    for uid in (wanted.uid, other.uid):
        await backend.driver.delete_volume(backend.pool, uid)
    await backend.driver.delete_image(backend.pool, image)


async def test_a_clone_of_nothing_or_into_too_little_is_refused_and_leaves_nothing(backend: Backend, some_file: Path) -> None:
    with pytest.raises(NotFound, match="IMAGE_NOT_FOUND"):
        await backend.driver.ensure_volume(backend.pool, WantedVolume(new_uid(), MIB, 1, new_uid()))
    image = await backend.import_raw(some_file, b"x", 8 * MIB)
    with pytest.raises(FailedPrecondition, match="VOLUME_TOO_SMALL"):
        await backend.driver.ensure_volume(backend.pool, WantedVolume(new_uid(), 4 * MIB, 1, image))
    assert await backend.volumes() == []
    await backend.driver.delete_image(backend.pool, image)


async def test_a_volume_that_is_open_is_not_deleted_and_one_that_is_gone_is(backend: Backend) -> None:
    wanted = WantedVolume(new_uid(), MIB, 1)
    await backend.driver.ensure_volume(backend.pool, wanted)
    async with backend.world.opened(wanted.uid) as address:
        assert await backend.driver.client_addresses(backend.pool, wanted.uid) == [address]
        assert await backend.driver.lock_owners(backend.pool, wanted.uid) == [address]
        with pytest.raises(FailedPrecondition, match=address):
            await backend.driver.delete_volume(backend.pool, wanted.uid)
    await backend.driver.delete_volume(backend.pool, wanted.uid)
    await backend.driver.delete_volume(backend.pool, wanted.uid)
    assert await backend.volumes() == []


async def test_deleting_and_purging_leaves_nothing(backend: Backend, some_file: Path) -> None:
    image = await backend.import_raw(some_file, b"x" * MIB)
    wanted = WantedVolume(new_uid(), 8 * MIB, 1, image)
    await backend.driver.ensure_volume(backend.pool, wanted)
    await backend.world.write(wanted.uid, b"data")
    await backend.driver.set_owner(backend.pool, wanted.uid, Owner(), owner("s1", 1, 1))
    await backend.driver.delete_image(backend.pool, image)
    await backend.driver.purge(backend.pool)
    assert await backend.driver.find_image(backend.pool, image) is None
    assert await backend.world.read(wanted.uid, 4, 4) == b"xxxx", "a hidden image must live while a clone does"
    await backend.driver.delete_volume(backend.pool, wanted.uid)
    await backend.driver.purge(backend.pool)
    assert await backend.world.left() == []


async def test_only_who_knows_the_owner_changes_it(backend: Backend) -> None:
    wanted = WantedVolume(new_uid(), MIB, 1)
    await backend.driver.ensure_volume(backend.pool, wanted)
    assert await backend.driver.owner_of(backend.pool, wanted.uid) is None
    first, second = owner("s1", 1, 1), owner("s1", 1, 2, "h2")
    assert await backend.driver.set_owner(backend.pool, wanted.uid, Owner(), first) == first
    assert await backend.driver.set_owner(backend.pool, wanted.uid, Owner(), first) == first, "said so already"
    with pytest.raises(FailedPrecondition, match="OWNER_CHANGED") as refused:
        await backend.driver.set_owner(backend.pool, wanted.uid, Owner(), second)
    assert refused.value.metadata["held_host"] == "h1"
    assert await backend.driver.set_owner(backend.pool, wanted.uid, first, second) == second
    with pytest.raises(FailedPrecondition, match="OWNER_CHANGED"):
        await backend.driver.set_owner(backend.pool, wanted.uid, second, first)
    assert await backend.driver.owner_of(backend.pool, wanted.uid) == second
    await backend.driver.set_owner(backend.pool, wanted.uid, second, Owner())
    assert await backend.driver.owner_of(backend.pool, wanted.uid) is None
    with pytest.raises(FailedPrecondition, match="OWNER_CHANGED"):
        await backend.driver.set_owner(backend.pool, wanted.uid, Owner(), first)
    (facts,) = await backend.volumes()
    assert facts.owner.epoch == second.epoch, "nobody keeps the epoch"
    await backend.driver.delete_volume(backend.pool, wanted.uid)
    with pytest.raises(NotFound, match="VOLUME_NOT_FOUND"):
        await backend.driver.set_owner(backend.pool, wanted.uid, Owner(), first)


async def test_of_many_setters_at_once_one_wins(backend: Backend) -> None:
    wanted = WantedVolume(new_uid(), MIB, 1)
    await backend.driver.ensure_volume(backend.pool, wanted)
    before = Owner()
    for epoch in (1, 2):
        rivals = [owner(f"s{number}", epoch, 1) for number in range(6)]
        answers = await asyncio.gather(
            *(backend.driver.set_owner(backend.pool, wanted.uid, before, rival) for rival in rivals), return_exceptions=True
        )
        won = [answer for answer in answers if isinstance(answer, Owner)]
        assert len(won) == 1
        assert all(isinstance(answer, Owner) or "OWNER_CHANGED" in str(answer) for answer in answers)
        assert await backend.driver.owner_of(backend.pool, wanted.uid) == won[0]
        before = won[0]
    await backend.driver.delete_volume(backend.pool, wanted.uid)


async def test_a_lock_is_broken_only_for_its_owner_with_a_proof_and_of_a_known_client(backend: Backend) -> None:
    wanted = WantedVolume(new_uid(), MIB, 1)
    await backend.driver.ensure_volume(backend.pool, wanted)
    mine = owner("s1", 1, 1)
    await backend.driver.set_owner(backend.pool, wanted.uid, Owner(), mine)
    alive = ProcessGone(os.getpid(), start_ticks_of(os.getpid()) or 0)
    async with backend.world.opened(wanted.uid) as address:
        for client, reason in (
            (DeadClient(owner("s2", 1, 1), [address], GONE), "OWNER_CHANGED"),
            (DeadClient(owner("s1", 1, 2), [address], GONE), "OWNER_CHANGED"),
            (DeadClient(Owner(), [address], GONE), "OWNER_CHANGED"),
            (DeadClient(mine, [address], alive), "CLIENT_ALIVE"),
            (DeadClient(mine, ["127.0.0.1:0/1"], GONE), "LOCK_FOREIGN"),
        ):
            with pytest.raises(FailedPrecondition, match=reason):
                await backend.driver.break_dead_lock(backend.pool, wanted.uid, client)
        assert await backend.driver.lock_owners(backend.pool, wanted.uid) == [address]
    await backend.driver.delete_volume(backend.pool, wanted.uid)


async def test_an_import_cancelled_leaves_no_image(backend: Backend, some_file: Path) -> None:
    uid = new_uid()
    with some_file.open("wb") as file:
        for _ in range(24):
            file.write(os.urandom(MIB))
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    image = Image(uid, "0" * 64, 24 * MIB, 24 * MIB)

    def progress(_: int) -> None:
        loop.call_soon_threadsafe(started.set)

    task = asyncio.ensure_future(backend.driver.import_image(backend.pool, image, some_file, progress))
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await backend.driver.delete_image(backend.pool, uid)

    async def all_freed() -> bool:
        await backend.driver.purge(backend.pool)
        return await backend.world.left() == []

    await until(all_freed)
    assert await backend.driver.find_image(backend.pool, uid) is None


async def test_a_pool_says_how_full_it_is(backend: Backend) -> None:
    async def known() -> bool:
        try:
            return (await backend.driver.usage(backend.pool)).capacity_bytes > 0
        except Unavailable:
            return False  # a cluster that has just been made does not know yet

    await until(known)
    usage = await backend.driver.usage(backend.pool)
    assert usage.capacity_bytes > 1 << 30
    assert 0 <= usage.used_bytes < usage.capacity_bytes
