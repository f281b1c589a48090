"""Servers on disks in a real Ceph: which storage clients they are told of, and that a dead one's lock does not outlive it."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.storage.driver import WantedVolume
from agent.storage.rbd import RbdDriver
from kumo.api.agent.v1.compute_pb2 import ServerFacts
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.ids import new_uid
from storage.image import Image
from storage.rados import Access
from tests.agent.compute.conftest import running_bench
from tests.agent.compute.test_reconciler import HOST, STUB, Rig, running, running_rig
from tests.ceph import Ceph
from tests.libvirt_host import LibvirtHost, running_libvirt

POOL = PoolReference(uid=new_uid(), driver="rbd", volume_pool="volumes", image_pool="images")


@pytest.fixture(scope="module")
def libvirt_beside_ceph() -> Iterator[LibvirtHost]:
    with running_libvirt(own_network=False) as host:
        yield host


@pytest.fixture
async def rig(libvirt_beside_ceph: LibvirtHost, ceph: Ceph, tmp_path: Path) -> AsyncIterator[Rig]:
    driver = RbdDriver(Access(ceph.conf_file, ceph.user))
    async with running_bench("libvirt", libvirt_beside_ceph, tmp_path) as bench, running_rig(bench, tmp_path, {"rbd": driver}) as made:
        made.pool = POOL
        yield made
        for volume in await driver.list_volumes(POOL):
            for uid in await bench.hypervisor.list_uids():
                await made.apply(uid, None, 99)
                await made.until(uid, lambda said: said.power == ServerFacts.ABSENT)
            await driver.delete_volume(POOL, volume.uid)
    await driver.purge(POOL)
    await driver.close()


async def start(rig: Rig) -> tuple[str, str, ServerFacts]:
    """Return server, volume and facts of a server that runs on a clone of an image of the stub."""
    driver = rig.drivers["rbd"]
    assert isinstance(driver, RbdDriver)
    image, volume, uid = new_uid(), new_uid(), new_uid()
    path = rig.directory / f"{image}.raw"
    path.write_bytes(STUB)
    await asyncio.to_thread(os.truncate, path, 1 << 20)
    await driver.import_image(POOL, Image(image, "", 512, 1 << 20), path, lambda _: None)
    await driver.ensure_volume(POOL, WantedVolume(volume, 1 << 20, 1, image))
    await driver.set_owner(POOL, volume, Owner(), Owner(server_uid=uid, host=HOST, epoch=Epoch(cell=1, host=1)))
    await rig.apply(uid, rig.desired(volume))
    return uid, volume, await rig.until(uid, running)


def end_watches(ceph: Ceph, addresses: list[str]) -> None:
    """Have the cluster forget dead clients now, and not half a minute later, so that their disks can be deleted."""
    with ceph.admin() as cluster:
        for address in addresses:
            command = {"prefix": "osd blocklist", "blocklistop": "add", "addr": address}
            code, _, why = cluster.mon_command(json.dumps(command), b"")
            assert code == 0, why


async def test_a_killed_guest_writes_to_its_disk_again_at_once(rig: Rig, ceph: Ceph) -> None:
    driver = rig.drivers["rbd"]
    uid, volume, facts = await start(rig)
    await rig.bench.printed(uid, b"boot AAAB")
    await rig.bench.printed(uid, b"stub ready")
    assert len(facts.client_addresses) >= 1
    (owner,) = await driver.lock_owners(POOL, volume)
    assert owner in facts.client_addresses
    began = time.monotonic()
    await rig.bench.end_guest(uid)
    await rig.bench.printed(uid, b"boot AAAC")
    # Without the lock being broken it would take Ceph half a minute to say that the host may not write.
    assert time.monotonic() - began < 15
    again = await rig.until(uid, running)
    assert set(again.client_addresses).isdisjoint(facts.client_addresses)
    await asyncio.to_thread(end_watches, ceph, list(facts.client_addresses))


async def test_a_server_that_was_taken_away_leaves_nobody_at_its_disk(rig: Rig) -> None:
    uid, volume, _ = await start(rig)
    await rig.apply(uid, None, 2)
    await rig.until(uid, lambda said: said.power == ServerFacts.ABSENT)
    assert await rig.drivers["rbd"].client_addresses(POOL, volume) == []
