"""Volumes that stand alone: made in a cell that reaches their pool, counted, and gone when the cell says so."""

from typing import Any

import pytest

from kumo.api.storage.v1 import volume_pb2
from kumo.errors import Error, NotFound
from tests.controller.region.region_process import PROJECT, Rig, eventually

NAME = f"{PROJECT}/volumes/data"


async def create(rig: Rig, **fields: Any) -> Any:
    spec = volume_pb2.Volume.Spec(**({"size_gib": 3} | fields))
    request = volume_pb2.CreateVolumeRequest(parent=PROJECT, volume_id="data", volume=volume_pb2.Volume(spec=spec))
    return await rig.api.volumes.CreateVolume(request)


async def get(rig: Rig) -> Any:
    return await rig.api.volumes.GetVolume(volume_pb2.GetVolumeRequest(name=NAME))


async def test_a_volume_becomes_available_and_its_room_is_free_when_it_is_gone(rig: Rig) -> None:
    before = await rig.usage()
    made = await create(rig, image=f"{PROJECT}/images/deb")
    assert (made.status.state, made.spec.pool) == (volume_pb2.Volume.CREATING, "pools/main")
    assert (await rig.usage())["gib"] == 3

    async def is_available() -> bool:
        return bool((await get(rig)).status.state == volume_pb2.Volume.AVAILABLE)

    await eventually(is_available)
    await rig.api.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(name=NAME))

    async def is_gone() -> bool:
        try:
            await get(rig)
        except NotFound:
            return True
        return False

    await eventually(is_gone)
    assert {kind: amount for kind, amount in (await rig.usage()).items() if amount} == before


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"image": f"{PROJECT}/images/none"}, "IMAGE_NOT_FOUND", "volume.spec.image"),
        ({"pool": "pools/none"}, "POOL_NOT_FOUND", "volume.spec.pool"),
        ({"pool": "pools/none", "image": f"{PROJECT}/images/deb"}, "IMAGE_IN_OTHER_POOL", "volume.spec.pool"),
        ({"size_gib": 0}, "FIELD_INVALID", "volume.spec.size_gib"),
    ],
)
async def test_a_volume_that_cannot_be_is_refused_by_field(rig: Rig, fields: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(Error) as refused:
        await create(rig, **fields)
    assert (refused.value.reason, refused.value.field) == (reason, field)
