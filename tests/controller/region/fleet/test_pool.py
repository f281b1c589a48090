"""Pools: what a driver cannot do is refused when it is asked for, and a directory is one host's."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from kumo.api.fleet.v1 import host_pb2, pool_pb2
from kumo.api.image.v1 import image_pb2
from kumo.api.storage.v1 import volume_pb2
from kumo.errors import Error, FailedPrecondition
from kumo.pool_verbs import ALL_VERBS, Verb
from tests.controller.region.region_process import PROJECT, Rig, eventually


async def reported(rig: Rig, verbs: frozenset[Verb]) -> None:
    """Return once the region knows that its pool can do this and nothing else."""
    rig.cell.verbs = sorted(verbs)
    (uid,) = (uid for uid, thing in rig.cell.things.items() if thing.kind == "pool")
    rig.cell.settle(uid)

    async def is_known() -> bool:
        pool = await rig.api.pools.GetPool(pool_pb2.GetPoolRequest(name="pools/main"))
        return list(pool.status.verbs) == sorted(verbs)

    await eventually(is_known)


async def create_volume(rig: Rig, **fields: Any) -> Any:
    volume = volume_pb2.Volume(spec=volume_pb2.Volume.Spec(size_gib=2, **fields))
    return await rig.api.volumes.CreateVolume(volume_pb2.CreateVolumeRequest(parent=PROJECT, volume_id="data", volume=volume))


async def create_image(rig: Rig) -> Any:
    image = image_pb2.Image(spec=image_pb2.Image.Spec(format=image_pb2.Image.RAW, size_bytes=8))
    return await rig.api.images.CreateImage(image_pb2.CreateImageRequest(parent=PROJECT, image_id="other", image=image))


async def create_pool(rig: Rig, name: str, **fields: Any) -> Any:
    pool = pool_pb2.Pool(spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.FILE, **fields))
    return await rig.api.pools.CreatePool(pool_pb2.CreatePoolRequest(pool_id=name, pool=pool))


async def add_host(rig: Rig, name: str) -> None:
    spec = host_pb2.Host.Spec(cell="a", agent_address="127.0.0.1:1", tunnel_address="127.0.0.1", storage_address="127.0.0.1")
    await rig.api.hosts.CreateHost(host_pb2.CreateHostRequest(host_id=name, host=host_pb2.Host(spec=spec)))

    async def is_known() -> bool:
        return await rig.region.tables.hosts.get(f"hosts/{name}") is not None

    await eventually(is_known)


CALLS: dict[Verb, tuple[Callable[[Rig], Awaitable[Any]], str]] = {
    Verb.CREATE: (create_volume, "volume.spec.pool"),
    Verb.CLONE: (lambda rig: create_volume(rig, image=f"{PROJECT}/images/deb"), "volume.spec.image"),
    Verb.IMPORT: (create_image, "image.spec.pool"),
    Verb.SHARE: (
        lambda rig: rig.api.pools.UpdatePool(
            pool_pb2.UpdatePoolRequest(
                pool=pool_pb2.Pool(name="pools/main", spec=pool_pb2.Pool.Spec(cells=["a", "b"])),
                update_mask=FieldMask(paths=["spec.cells"]),
            )
        ),
        "pool.spec.cells",
    ),
}


@pytest.mark.parametrize("verb", Verb)
async def test_a_verb_that_the_driver_lacks_is_refused_by_name_and_no_other_is(rig: Rig, verb: Verb) -> None:
    await reported(rig, ALL_VERBS - {verb})
    call, field = CALLS[verb]
    with pytest.raises(FailedPrecondition) as refused:
        await call(rig)
    assert (refused.value.reason, refused.value.field) == ("VERB_MISSING", field)
    said = refused.value.metadata
    assert (said["verb"], said["driver"], said["pool"]) == (verb, "FAKE", "pools/main")
    assert verb in refused.value.message and "FAKE" in refused.value.message and refused.value.fix
    await reported(rig, frozenset({verb}))
    await call(rig)


async def test_no_server_is_taken_whose_disk_could_not_be_cloned(rig: Rig) -> None:
    await reported(rig, ALL_VERBS - {Verb.CLONE})
    with pytest.raises(FailedPrecondition, match="VERB_MISSING"):
        await rig.api.create_server("web")
    assert not (await rig.usage()).get("servers")


async def test_a_directory_is_of_one_host_and_of_that_hosts_cell(rig: Rig) -> None:
    await add_host(rig, "h1")
    await add_host(rig, "h2")
    for fields, reason, field in (
        ({}, "HOST_MISSING", "pool.spec.hosts"),
        ({"hosts": ["h9"]}, "HOST_NOT_FOUND", "pool.spec.hosts"),
        ({"hosts": ["h1", "h2"]}, "VERB_MISSING", "pool.spec.hosts"),
        ({"hosts": ["h1"], "cells": ["b"]}, "VERB_MISSING", "pool.spec.cells"),
    ):
        with pytest.raises(Error) as refused:
            await create_pool(rig, "files", **fields)
        assert (refused.value.reason, refused.value.field) == (reason, field)
    made = await create_pool(rig, "files", hosts=["h1"])
    assert list(made.spec.cells) == ["a"]
    with pytest.raises(FailedPrecondition, match="VERB_MISSING"):
        await rig.api.pools.UpdatePool(
            pool_pb2.UpdatePoolRequest(
                pool=pool_pb2.Pool(name="pools/files", spec=pool_pb2.Pool.Spec(cells=["a", "b"])),
                update_mask=FieldMask(paths=["spec.cells"]),
            )
        )
