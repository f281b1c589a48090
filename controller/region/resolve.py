"""Finds what a request refers to, and says in which field it was named when it cannot be used."""

from typing import Any, TypeVar

from google.protobuf.message import Message

from controller.region import access
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.errors import FailedPrecondition, InvalidArgument
from kumo.pool_verbs import WHAT, Verb
from kumo.store.plane import Plane
from kumo.store.table import Table

M = TypeVar("M", bound=Message)
GIB = 1 << 30


async def resolve(plane: Plane, table: Table[M], name: str, field: str) -> M:
    """Return the record of this name. Raises NotFound, or FailedPrecondition if it is being deleted."""
    access.require_reach(name, table.name, field=field)
    record: Any = await table.get(name)
    if record is None:
        # Another controller may have made it just now.
        record = await table.get(name, min_revision=await plane.revision())
    if record is None:
        raise access.not_found(name, table.name, field=field)
    if record.HasField("delete_time"):
        raise FailedPrecondition("BEING_DELETED", f"{name} is being deleted", field=field, fix="name another one", name=name)
    return record  # type: ignore[no-any-return]  # the table's own type; Any only to read its fields


async def pool_or_default(plane: Plane, pools: Table[Pool], name: str, field: str) -> Pool:
    """Return the pool of this name, or the default one if it is empty. Raises FailedPrecondition if there is no default."""
    if name:
        return await resolve(plane, pools, name, field)
    # There are few pools, and this is asked for each volume and image.
    page = await pools.list(match=lambda pool: pool.spec.default and not pool.HasField("delete_time"), page_size=1)
    if not page.items:
        raise FailedPrecondition(
            "NO_DEFAULT_POOL", "no pool is the default one", field=field, fix="name a pool, or have an operator make one the default"
        )
    return page.items[0]


def require_verb(pool: Pool | None, verb: Verb, field: str) -> None:
    """Raises FailedPrecondition VERB_MISSING if the pool's driver is known not to be able to do it."""
    if pool is not None and pool.status.verbs and verb not in pool.status.verbs:
        raise verb_missing(pool, verb, field)


def verb_missing(pool: Pool, verb: Verb, field: str) -> FailedPrecondition:
    driver = Pool.Driver.Name(pool.spec.driver)
    return FailedPrecondition(
        "VERB_MISSING",
        f"{pool.name} cannot {WHAT[verb]}: its driver {driver} has no verb {verb}",
        field=field,
        fix=f"name a pool that lists {verb} among its verbs",
        pool=pool.name,
        driver=driver,
        verb=verb,
    )


async def usable_image(plane: Plane, images: Table[Image], name: str, field: str) -> Image:
    """Raises FailedPrecondition, naming its state, if disks cannot be cloned from it (yet)."""
    image = await resolve(plane, images, name, field)
    if image.status.state != Image.ACTIVE:
        state = Image.State.Name(image.status.state or Image.PENDING)
        fix = "name another image" if image.status.state == Image.FAILED else "upload its bytes, and wait until it is ACTIVE"
        raise FailedPrecondition("IMAGE_NOT_ACTIVE", f"{name} is {state}, not ACTIVE", field=field, fix=fix, name=name, state=state)
    return image


def require_room_for(image: Image, size_gib: int, field: str) -> None:
    """Raises InvalidArgument if a disk of this size cannot hold the image."""
    least_gib = -(-image.status.virtual_size_bytes // GIB)
    if size_gib < least_gib:
        raise InvalidArgument(
            "DISK_TOO_SMALL",
            f"a disk of {size_gib} GiB cannot hold {image.name}, which is {image.status.virtual_size_bytes} bytes",
            field=field,
            fix=f"ask for at least {least_gib} GiB",
            size_gib=size_gib,
            least_gib=least_gib,
        )
