"""The fake keeps what it was told: its state outlives the process, and what a crash left goes."""

from pathlib import Path

from agent.storage.driver import WantedVolume
from agent.storage.fake import FakeDriver
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.ids import new_uid
from storage.image import Image

MIB = 1 << 20


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    pool = PoolReference(uid=new_uid(), driver="fake")
    image, volume = new_uid(), new_uid()
    owner = Owner(server_uid="s1", host="h1", epoch=Epoch(cell=1, host=2))
    raw = tmp_path / "raw"
    raw.write_bytes(b"boot" * MIB)
    first = FakeDriver(tmp_path / "pool")
    await first.import_image(pool, Image(image, "a" * 64, 4 * MIB, 4 * MIB), raw, lambda _: None)
    made = await first.ensure_volume(pool, WantedVolume(volume, 8 * MIB, 3, image))
    await first.set_owner(pool, volume, Owner(), owner)
    await first.open_as(pool, volume, "127.0.0.1:0/5")
    await first.close()
    left = tmp_path / "pool" / pool.uid / "images" / f"{new_uid()}.1234.importing"
    left.write_bytes(b"half")

    second = FakeDriver(tmp_path / "pool")
    assert await second.find_image(pool, image) == Image(image, "a" * 64, 4 * MIB, 4 * MIB)
    made.owner.CopyFrom(owner)
    assert await second.list_volumes(pool) == [made]
    assert await second.owner_of(pool, volume) == owner
    assert await second.lock_owners(pool, volume) == ["127.0.0.1:0/5"]
    await second.purge(pool)
    assert not left.exists()
    await second.close()
