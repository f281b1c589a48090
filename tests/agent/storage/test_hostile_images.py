"""Files made to do harm: each is refused with its reason, and leaves nothing. Through the whole path, with the real qemu-img."""

import asyncio
import json
import os
import random
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.storage.checks import ImageChecks
from agent.storage.inspect import Refused
from agent.storage.sandbox import Sandbox
from kumo.api.agent.v1.storage_pb2 import ImageFacts
from kumo.ids import new_uid
from tests.agent.storage.conftest import LIMITS, Backend, Desk
from tests.agent.storage.files import qcow2_file, run

MIB = 1 << 20
Maker = Callable[[Path], Awaitable[Path]]

only_fake = pytest.mark.parametrize("backend", ["fake"], indirect=True)


async def with_backing_file(folder: Path) -> Path:
    path = folder / "a.qcow2"
    await run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", path, "1M")
    return path


async def with_backing_file_in_json(folder: Path) -> Path:
    path = folder / "a.qcow2"
    backing = "json:" + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "/etc/shadow"}})
    await run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, path, "1M")
    return path


async def with_data_file(folder: Path) -> Path:
    path = folder / "a.qcow2"
    await run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={folder}/data,data_file_raw=on", path, "1M")
    return path


async def encrypted(folder: Path) -> Path:
    path = folder / "a.qcow2"
    # Not by luks: making its header costs seconds.
    options = "encrypt.format=aes,encrypt.key-secret=s"
    await run("qemu-img", "create", "-q", "--object", "secret,id=s,data=x", "-f", "qcow2", "-o", options, path, "1M")
    return path


async def with_a_snapshot(folder: Path) -> Path:
    path = await qcow2_file(folder, MIB, {0: b"x"})
    await run("qemu-img", "snapshot", "-c", "s", path)
    return path


async def cut(folder: Path) -> Path:
    path = await qcow2_file(folder, 8 * MIB, {0: os.urandom(4 * MIB)})
    os.truncate(path, path.stat().st_size - MIB)
    return path


async def absurd(folder: Path) -> Path:
    path = folder / "a.qcow2"
    await run("qemu-img", "create", "-q", "-f", "qcow2", path, "60T")
    return path


async def bomb(folder: Path) -> Path:
    """A disk of 128 MiB that is not zeros, in a file of a few hundred KiB."""
    path = folder / "a.qcow2"
    await run("qemu-img", "create", "-q", "-f", "qcow2", path, "128M")
    await run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 128M", path)
    packed = folder / "b.qcow2"
    await run("qemu-img", "convert", "-q", "-c", "-O", "qcow2", path, packed)
    assert packed.stat().st_size < 4 * MIB
    return packed


async def with_wrong_counts(folder: Path) -> Path:
    path = await qcow2_file(folder, MIB, {0: os.urandom(MIB)})
    with path.open("r+b") as file:
        file.seek(48)
        (table,) = struct.unpack(">Q", file.read(8))
        file.seek(table)
        (block,) = struct.unpack(">Q", file.read(8))
        file.seek(block + 6)
        file.write(bytes(16))
    return path


async def compressed_rubbish(folder: Path) -> Path:
    path = await qcow2_file(folder, MIB, {0: b"x" * MIB}, "-c")
    content = bytearray(path.read_bytes())
    for offset in range(0x50000, len(content)):
        content[offset] ^= 0x5A
    path.write_bytes(content)
    return path


async def vmdk(folder: Path) -> Path:
    path = folder / "a.vmdk"
    await run("qemu-img", "create", "-q", "-f", "vmdk", path, "1M")
    return path


async def raw(folder: Path) -> Path:
    path = folder / "a.raw"
    path.write_bytes(os.urandom(MIB))
    return path


@only_fake
@pytest.mark.parametrize(
    ("make", "declared", "reason"),
    [
        (with_backing_file, "qcow2", "BACKING_FILE"),
        (with_backing_file_in_json, "qcow2", "BACKING_FILE"),
        (with_data_file, "qcow2", "DATA_FILE"),
        (encrypted, "qcow2", "ENCRYPTED"),
        (with_a_snapshot, "qcow2", "SNAPSHOTS"),
        (cut, "qcow2", "TRUNCATED"),
        (absurd, "qcow2", "TOO_LARGE"),
        (bomb, "qcow2", "TOO_LARGE"),
        (with_wrong_counts, "qcow2", "CORRUPT"),
        (compressed_rubbish, "qcow2", "CORRUPT"),
        (vmdk, "qcow2", "FORMAT_MISMATCH"),
        (vmdk, "raw", "FORMAT_MISMATCH"),
        (raw, "qcow2", "FORMAT_MISMATCH"),
        (with_backing_file, "raw", "FORMAT_MISMATCH"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_it_is_refused_and_leaves_nothing(
    desk: Desk, backend: Backend, tmp_path: Path, make: Maker, declared: str, reason: str
) -> None:
    facts = await desk.take(await make(tmp_path), declared)
    assert (facts.stage, facts.reason) == (ImageFacts.REFUSED, reason), facts.message
    assert facts.message
    assert desk.staged_files() == []
    assert await backend.world.left() == []


@only_fake
async def test_a_lie_about_the_size_is_refused(desk: Desk, backend: Backend) -> None:
    uid = new_uid()
    await desk.upload(uid, b"x" * 1000)
    facts = await desk.import_(uid, "raw", 2000)
    assert (facts.stage, facts.reason) == (ImageFacts.REFUSED, "SIZE_MISMATCH")
    assert desk.staged_files() == []


async def test_files_with_random_damage_are_taken_or_refused_and_never_hang(tmp_path: Path) -> None:
    rng = random.Random(7)
    staging = tmp_path / "staging"
    staging.mkdir()
    checks = ImageChecks(Sandbox(staging), LIMITS, lambda: 1 << 30)
    whole = (await qcow2_file(tmp_path, 8 * MIB, {0: rng.randbytes(MIB), 5 * MIB: b"x"}, "-o", "cluster_size=4k")).read_bytes()
    out = staging / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    path = tmp_path / "damaged.qcow2"
    ended: set[str] = set()
    for _ in range(24):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            offset = rng.choice((rng.randrange(120), rng.randrange(5 * 4096), rng.randrange(len(content))))
            content[offset : offset + 4] = rng.choice((bytes(4), b"\xff" * 4, rng.randbytes(4)))
        path.write_bytes(content)
        try:
            async with asyncio.timeout(30):
                size = await checks.inspect(path, "qcow2")
                disk = await checks.convert(path, out, size, lambda _: None)
            disk.unlink()
            ended.add("taken")
        except Refused as refused:
            ended.add(refused.reason)
        for left in out.iterdir():
            left.unlink()
    assert len(ended) >= 3, ended
    assert [left.name for left in staging.iterdir()] == ["out"]
