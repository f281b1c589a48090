"""The storage servicer from the leader's side: order, uploads that go on, imports, and what happens around them."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path

import pytest

from agent.storage.staging import StagingLimits
from kumo.api.agent.v1.storage_pb2 import (
    DeleteVolumeRequest,
    DescribePoolRequest,
    EnsureVolumeRequest,
    ImageFacts,
    ImportImageRequest,
    ListVolumesRequest,
    Owner,
    PoolReference,
    SetOwnerRequest,
    UploadHead,
    UploadImageRequest,
)
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.errors import Aborted, FailedPrecondition, InvalidArgument, ResourceExhausted
from kumo.ids import new_uid
from tests.agent.storage.conftest import LIMITS, Backend, Desk, desk_for, until
from tests.agent.storage.files import qcow2_file
from tests.pki import Pki

MIB = 1 << 20


async def test_a_qcow2_file_becomes_the_disk_of_a_volume(desk: Desk, backend: Backend, tmp_path: Path) -> None:
    path = await qcow2_file(tmp_path, 64 * MIB, {0: b"boot", 40 * MIB: b"data"})
    facts = await desk.take(path, "qcow2")
    assert (facts.stage, facts.virtual_size_bytes, facts.progress_percent) == (ImageFacts.IMPORTED, 64 * MIB, 100)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert desk.staged_files() == []
    volume = new_uid()
    request = EnsureVolumeRequest(stamp=desk.stamp(generation=4), uid=volume, pool=desk.pool, size_bytes=128 * MIB, image_uid=facts.uid)
    made = (await desk.stub.EnsureVolume(request)).facts
    assert (made.size_bytes, made.generation) == (128 * MIB, 4)
    assert await backend.world.read(volume, 40 * MIB, 5) == b"data\0"
    mine = Owner(server_uid=new_uid(), host="h1", epoch=Epoch(cell=1, host=1))
    await desk.stub.SetOwner(SetOwnerRequest(stamp=desk.stamp(), uid=volume, pool=desk.pool, owner=mine))
    listed = (await desk.stub.ListVolumes(ListVolumesRequest(pool=desk.pool))).volumes
    assert [one.owner for one in listed if one.uid == volume] == [mine]
    await desk.delete(facts.uid)
    await desk.stub.DeleteVolume(DeleteVolumeRequest(stamp=desk.stamp(), uid=volume, pool=desk.pool))

    async def all_freed() -> bool:
        return await backend.world.left() == []

    await until(all_freed)


async def test_a_raw_file_keeps_its_bytes_and_asking_again_changes_nothing(desk: Desk, backend: Backend) -> None:
    content = os.urandom(MIB) + bytes(8 * MIB) + b"end"
    uid = new_uid()
    await desk.upload(uid, content)
    for _ in range(2):
        facts = await desk.import_(uid, "raw", len(content))
        assert facts.stage == ImageFacts.IMPORTED
        assert facts.virtual_size_bytes == 9 * MIB + 512
    assert await desk.upload(new_uid(), b"x") == 1
    volume = new_uid()
    await desk.stub.EnsureVolume(EnsureVolumeRequest(stamp=desk.stamp(), uid=volume, pool=desk.pool, size_bytes=10 * MIB, image_uid=uid))
    assert await backend.world.read(volume, 0, len(content)) == content
    await desk.stub.DeleteVolume(DeleteVolumeRequest(stamp=desk.stamp(), uid=volume, pool=desk.pool))
    await desk.delete(uid)


async def test_an_upload_goes_on_after_a_cut_and_after_the_agent_was_started_anew(backend: Backend, pki: Pki, tmp_path: Path) -> None:
    content = os.urandom(6 * MIB + 17)
    uid, room = new_uid(), StagingLimits(total_bytes=64 * MIB)
    async with desk_for(backend, pki, tmp_path / "agent", LIMITS, room) as desk:
        call = desk.begin_upload()
        await call.write(UploadImageRequest(head=UploadHead(stamp=desk.stamp(), uid=uid, size_bytes=len(content))))
        assert (await call.read()).received_bytes == 0
        for offset in range(0, 5 * MIB, MIB):
            await call.write(UploadImageRequest(offset=offset, data=content[offset : offset + MIB]))

        async def written() -> bool:
            return desk.staging.file(uid).exists() and desk.staging.file(uid).stat().st_size >= 4 * MIB

        await until(written)
        call.cancel()

        async def kept() -> bool:
            return (await desk.describe(uid)).received_bytes >= 4 * MIB

        await until(kept)
        # What lies behind what was acknowledged may be anything after a crash.
        with desk.staging.file(uid).open("ab") as file:
            file.write(b"rest of a crash")
    async with desk_for(backend, pki, tmp_path / "agent", LIMITS, room) as desk:
        assert (await desk.describe(uid)).received_bytes >= 4 * MIB
        assert await desk.upload(uid, content) == len(content)
        facts = await desk.describe(uid)
        assert (facts.stage, facts.sha256) == (ImageFacts.STAGED, hashlib.sha256(content).hexdigest())
        await desk.delete(uid)


async def test_an_upload_is_held_to_its_offset_and_size(desk: Desk) -> None:
    uid = new_uid()
    for offset, data, error, reason in (
        (5, b"x", FailedPrecondition, "UPLOAD_OFFSET"),
        (0, b"x" * 11, InvalidArgument, "UPLOAD_TOO_LONG"),
    ):
        call = desk.begin_upload()
        await call.write(UploadImageRequest(head=UploadHead(stamp=desk.stamp(), uid=uid, size_bytes=10)))
        await call.read()
        await call.write(UploadImageRequest(offset=offset, data=data))
        with pytest.raises(error, match=reason) as refused:
            await call.read()
        if reason == "UPLOAD_OFFSET":
            assert refused.value.metadata["expected_offset"] == "0"
    with pytest.raises(InvalidArgument, match="UPLOAD_SIZE_CHANGED"):
        await desk.upload(uid, b"x" * 11)
    with pytest.raises(InvalidArgument, match="UPLOAD_HEAD_MISSING"):
        call = desk.begin_upload()
        await call.write(UploadImageRequest(offset=0, data=b"x"))
        await call.read()
    with pytest.raises(ResourceExhausted, match="STAGING_FULL"):
        await desk.upload(new_uid(), b"x", size_bytes=300 * MIB)
    with pytest.raises(FailedPrecondition, match="IMAGE_NOT_STAGED"):
        await desk.import_(uid, "raw", 10)
    await desk.delete(uid)
    assert desk.staged_files() == []


async def test_one_upload_at_a_time_has_an_image(desk: Desk) -> None:
    uid = new_uid()
    call = desk.begin_upload()
    await call.write(UploadImageRequest(head=UploadHead(stamp=desk.stamp(), uid=uid, size_bytes=10)))
    await call.read()
    with pytest.raises(Aborted, match="IMAGE_BUSY"):
        await desk.upload(uid, b"x" * 10)
    call.cancel()

    async def uploaded() -> bool:
        try:
            return await desk.upload(uid, b"x" * 10) == 10
        except Aborted:
            return False

    await until(uploaded)
    await desk.delete(uid)


async def test_a_refusal_is_remembered_until_the_image_is_deleted(backend: Backend, pki: Pki, tmp_path: Path) -> None:
    uid = new_uid()
    async with desk_for(backend, pki, tmp_path / "agent", LIMITS, StagingLimits()) as desk:
        await desk.upload(uid, b"x" * 1000)
        for facts in (await desk.import_(uid, "raw", 1000, "0" * 64), await desk.import_(uid, "raw", 1000)):
            assert (facts.stage, facts.reason) == (ImageFacts.REFUSED, "SHA256_MISMATCH")
            assert hashlib.sha256(b"x" * 1000).hexdigest() in facts.message
        with pytest.raises(FailedPrecondition, match="IMAGE_REFUSED"):
            await desk.upload(uid, b"x" * 1000)
    async with desk_for(backend, pki, tmp_path / "agent", LIMITS, StagingLimits()) as desk:
        assert (await desk.describe(uid)).reason == "SHA256_MISMATCH"
        assert desk.staged_files() == []
        await desk.delete(uid)
        assert (await desk.describe(uid)).stage == ImageFacts.STAGE_UNSPECIFIED
    assert await backend.world.left() == []


async def test_what_was_abandoned_goes(backend: Backend, pki: Pki, tmp_path: Path) -> None:
    uid = new_uid()
    async with desk_for(backend, pki, tmp_path / "agent", LIMITS, StagingLimits(abandoned_after=timedelta(0))) as desk:
        await desk.upload(uid, b"half", size_bytes=8)
        await desk.service.sweep_once()
        assert (await desk.describe(uid)).stage == ImageFacts.STAGE_UNSPECIFIED
        assert desk.staged_files() == []


async def test_what_is_behind_is_refused(desk: Desk, backend: Backend) -> None:
    old, late, uid = desk.stamp(revision=3), desk.stamp(), new_uid()
    request = EnsureVolumeRequest(stamp=desk.stamp(), uid=uid, pool=desk.pool, size_bytes=MIB)
    await desk.stub.EnsureVolume(request)
    await desk.stub.DeleteVolume(DeleteVolumeRequest(stamp=desk.stamp(), uid=uid, pool=desk.pool))
    for behind in (request, EnsureVolumeRequest(stamp=late, uid=uid, pool=desk.pool, size_bytes=MIB)):
        with pytest.raises(FailedPrecondition, match="STALE_COMMAND"):
            await desk.stub.EnsureVolume(behind)
    with pytest.raises(FailedPrecondition, match="STALE_COMMAND"):
        await desk.stub.EnsureVolume(EnsureVolumeRequest(stamp=old, uid=new_uid(), pool=desk.pool, size_bytes=MIB))
    with pytest.raises(FailedPrecondition, match="STALE_COMMAND"):
        await desk.stub.ImportImage(ImportImageRequest(stamp=old, uid=new_uid(), pool=desk.pool, format="raw", size_bytes=1))
    assert await backend.volumes() == []


async def test_a_pool_of_another_driver_is_refused(desk: Desk) -> None:
    other = PoolReference(uid=new_uid(), driver="fake" if desk.pool.driver == "rbd" else "rbd")
    with pytest.raises(FailedPrecondition, match="DRIVER_MISSING"):
        await desk.stub.DescribePool(DescribePoolRequest(pool=other))


async def test_deleting_an_image_stops_its_import(desk: Desk, backend: Backend) -> None:
    content = os.urandom(48 * MIB)
    uid = new_uid()
    await desk.upload(uid, content)
    request = ImportImageRequest(stamp=desk.stamp(), uid=uid, pool=desk.pool, format="raw", size_bytes=len(content))
    assert (await desk.stub.ImportImage(request)).facts.stage == ImageFacts.IMPORTING

    async def well_under_way() -> bool:
        facts = await desk.describe(uid)
        return facts.stage != ImageFacts.IMPORTING or facts.progress_percent >= 10

    await until(well_under_way)
    await desk.delete(uid)
    assert (await desk.describe(uid)).stage == ImageFacts.STAGE_UNSPECIFIED
    assert desk.staged_files() == []

    async def all_freed() -> bool:
        await desk.service.sweep_once()
        return await backend.world.left() == []

    await until(all_freed)
