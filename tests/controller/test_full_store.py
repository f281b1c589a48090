"""The disk of etcd is full, by its own quota or because nothing is left of it: reads go on, writes are refused soon and say why, what
was acknowledged is there, and all of it ends by itself when there is room.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kumo.api.compute.v1.server_pb2 import Server
from kumo.errors import Error, Unavailable
from kumo.ids import new_uid
from kumo.store import ops
from kumo.store.client import Etcd
from tests.controller.cell.world import CELL, Cloud, Region, running
from tests.controller.region.region_process import Rig, eventually
from tests.controller.test_whole import furnish, whole
from tests.etcd import Cluster, cluster, free_ports
from tests.pki import Pki

# A promise of one second, asserted at three times its figure.
SOON_S = 3.0
DISK_MIB = 160
QUOTA_BYTES = 32 << 20
RECOVERY_S = 60.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def cloud_on(store: Cluster, folder: Path) -> Cloud:
    pki, port = Pki(folder), free_ports(1)[0]
    region = Region(f"127.0.0.1:{port}", pki.files("region", "controller"))
    return Cloud(pki, folder, store.addresses, f"/kumo/cell/{CELL}-{new_uid()}", port, region)


def fill(disk: Path) -> None:
    """Leave not a byte of it."""
    with (disk / "ballast").open("ab", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(1 << 16))


def make_room(disk: Path) -> None:
    os.truncate(disk / "ballast", 0)


async def keep_running(store: Cluster) -> None:
    """Start etcd again and again when it has ended, as a supervisor does."""
    (member,) = store.members
    while True:
        if not member.is_running:
            member.launch()
        await asyncio.sleep(0.2)


class Asker:
    """Asks for servers, and notes which were promised."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.promised: list[str] = []
        self.reasons: list[str] = []

    async def ask(self) -> bool:
        """Ask for one more; return whether it was promised. A refusal has to come soon, and to say why."""
        name = f"s{len(self.promised) + len(self.reasons)}"
        began = time.monotonic()
        try:
            await self._rig.api.create_server(name)
        except Error as error:
            assert time.monotonic() - began < SOON_S, error
            assert error.code == "UNAVAILABLE" and error.fix, error
            self.reasons.append(error.reason)
            return False
        self.promised.append(name)
        return True

    async def all_are_active(self) -> bool:
        return all([await self._rig.state_is(name, Server.ACTIVE)() for name in self.promised])


async def put_ballast(store: Cluster, count: int) -> None:
    """Write until etcd takes no more; what is written is taken away again by `drop_ballast`."""
    async with Etcd(store.addresses) as etcd:
        with suppress(Unavailable):
            for number in range(count):
                await etcd.txn(success=[ops.put(b"/ballast/%d" % number, bytes(100_000))])


async def drop_ballast(store: Cluster) -> None:
    async with Etcd(store.addresses) as etcd:
        await etcd.txn(success=[ops.delete(b"/ballast/", b"/ballast0")])


async def test_nothing_is_left_of_the_disk_of_etcd(disk: Path, tmp_path: Path) -> None:
    with cluster(is_durable=True, place=disk) as store:
        async with whole(cloud_on(store, tmp_path)) as (rig, agent), running(keep_running(store)):
            await furnish(rig, agent)
            asker = Asker(rig)
            assert await asker.ask()
            await eventually(asker.all_are_active, 20)
            fill(disk)
            await put_ballast(store, 1000)
            # etcd, started again and again, may take a write into its log now and then: what it took is on the disk.
            while len(asker.reasons) < 5:
                await asker.ask()
            assert set(asker.reasons) <= {"STORE_UNREACHABLE", "OUTCOME_UNKNOWN"}
            assert "STORE_UNREACHABLE" in asker.reasons
            assert (await rig.api.server("s0")).status.state == Server.ACTIVE, "reads go on"
            make_room(disk)
            await eventually(asker.ask, RECOVERY_S)
            await eventually(asker.all_are_active, RECOVERY_S)


async def test_etcd_has_used_up_its_quota(tmp_path: Path) -> None:
    with cluster(extra=[f"--quota-backend-bytes={QUOTA_BYTES}"]) as store:
        async with whole(cloud_on(store, tmp_path)) as (rig, agent):
            await furnish(rig, agent)
            asker = Asker(rig)
            assert await asker.ask()
            await eventually(asker.all_are_active, 20)
            await put_ballast(store, 1000)
            while len(asker.reasons) < 5:
                await asker.ask()
            assert set(asker.reasons) == {"STORE_FULL"}
            assert (await rig.api.server("s0")).status.state == Server.ACTIVE, "reads go on"
            await drop_ballast(store)
            await eventually(asker.ask, RECOVERY_S)
            await eventually(asker.all_are_active, RECOVERY_S)
