"""What a table promises to one reader and one writer at a time."""

import pytest

from kumo.errors import AlreadyExists, InvalidArgument
from kumo.store.errors import Conflict, ReferencedError, TargetGone
from kumo.store.plane import Plane
from kumo.store.record import Reference
from tests.kumo.store.record_pb2 import Thing
from tests.kumo.store.things import create, delete, thing, things, update


async def test_what_was_created_is_read_back_by_name_and_by_uid(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        made = await create(plane, table, thing("a/1", color="red"))
        assert made.uid and made.etag and made.generation == 1 and made.HasField("create_time")
        assert await table.get("a/1") == made
        assert await table.get_by_uid(made.uid) == made
        assert await table.get("a/2") is None


async def test_a_name_is_taken_until_its_record_goes(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        made = await create(plane, table, thing("a/1"))
        with pytest.raises(AlreadyExists):
            await create(plane, table, thing("a/1"))
        await delete(plane, table, made)
        again = await create(plane, table, thing("a/1"))
        assert again.uid != made.uid


async def test_an_update_by_an_old_etag_is_a_conflict(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        made = await create(plane, table, thing("a/1"))
        newer = await update(plane, table, made, size=2)
        assert (newer.generation, newer.etag != made.etag) == (2, True)
        with pytest.raises(Conflict):
            await update(plane, table, made, size=3)
        read = await table.get("a/1")
        assert read is not None and read.spec.size == 2


async def test_a_status_write_leaves_the_etag_and_is_joined_to_the_intent(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        made = await create(plane, table, thing("a/1", size=7))
        txn = plane.txn()
        assert txn.write_status(table, made.uid, Thing(status=Thing.Status(state="ACTIVE", conditions=["x"])))
        assert txn.write_placement(table, made.uid, Thing(status=Thing.Status(cell="a", conditions=["y"])))
        await txn.commit()
        read = await table.get("a/1")
        assert read is not None and read.etag == made.etag and read.spec.size == 7
        assert (read.status.state, read.status.cell, list(read.status.conditions)) == ("ACTIVE", "a", ["x", "y"])
        again = plane.txn()
        assert not again.write_status(table, made.uid, Thing(status=Thing.Status(state="ACTIVE", conditions=["x"])))
        parts = await table.parts(made.uid)
        assert parts is not None and parts.status is not None and list(parts.status.status.conditions) == ["x"]


async def test_an_index_finds_what_has_the_value_now(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        made = await create(plane, table, thing("a/1", color="red/er"))
        await create(plane, table, thing("a/2", color="blue"))
        assert [found.name for found in await table.find("color", "red/er")] == ["a/1"]
        new = Thing()
        new.CopyFrom(made)
        new.spec.color = "blue"
        txn = plane.txn()
        txn.update_intent(table, made, new)
        await txn.commit()
        assert [found.name for found in await table.find("color", "blue")] == ["a/1", "a/2"]
        assert await table.find("color", "red/er") == []


async def test_deleting_what_others_use_is_refused_and_lists_them(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        target = await create(plane, table, thing("a/target"))
        user = await create(plane, table, thing("a/user", target=target.uid))
        with pytest.raises(ReferencedError) as refusal:
            await delete(plane, table, target)
        assert [referrer.name for referrer in refusal.value.referrers] == ["a/user"]
        marked = Thing()
        marked.CopyFrom(target)
        marked.delete_time.GetCurrentTime()
        txn = plane.txn()
        txn.update_intent(table, target, marked)
        with pytest.raises(ReferencedError):
            await txn.commit()
        await delete(plane, table, user)
        await delete(plane, table, target)
        assert await plane.scan("") == [item for item in await plane.scan("") if b"/record/" not in item.key]


async def test_nothing_new_refers_to_what_is_being_deleted(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        target = await create(plane, table, thing("a/target"))
        marked = Thing()
        marked.CopyFrom(target)
        marked.delete_time.GetCurrentTime()
        txn = plane.txn()
        txn.update_intent(table, target, marked)
        await txn.commit()
        with pytest.raises(TargetGone) as refusal:
            await create(plane, table, thing("a/user", target=target.uid))
        assert refusal.value.field == "spec.target"


async def test_a_family_is_created_and_deleted_in_one_transaction(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        txn = plane.txn()
        parent = txn.create(table, thing("a/parent"))
        child = txn.create(table, thing("a/child", owner=parent.uid))
        user = txn.create(table, thing("a/user", target=child.uid, owner=parent.uid))
        await txn.commit()
        with pytest.raises(ReferencedError):
            await delete(plane, table, child)
        outsider = await create(plane, table, thing("a/outsider", target=child.uid))
        gone = plane.txn()
        for one in (parent, child, user):
            gone.delete(table, one)
        with pytest.raises(ReferencedError) as refusal:
            await gone.commit()
        assert [referrer.name for referrer in refusal.value.referrers] == ["a/outsider"]
        await delete(plane, table, outsider)
        gone = plane.txn()
        for one in (parent, child, user):
            gone.delete(table, one)
        await gone.commit()
        left = {plane.keys.relative(item.key) for item in await plane.scan("")}
        assert left == {"format", "incarnation", "token-key"}


async def test_lists_come_in_order_of_name_page_by_page(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        txn = plane.txn()
        for number in range(7):
            txn.create(table, thing(f"p/{number}", size=number))
        txn.create(table, thing("q/0"))
        await txn.commit()
        names, token = [], ""
        while True:
            page = await table.list("p/", page_size=3, page_token=token)
            names += [item.name for item in page.items]
            token = page.next_page_token
            if not token:
                break
        assert names == [f"p/{number}" for number in range(7)]
        odd = await table.list("p/", match=lambda item: item.spec.size % 2 == 1, filter_id="odd")
        assert [item.spec.size for item in odd.items] == [1, 3, 5]


async def test_a_page_ends_at_a_mebibyte(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        for number in range(3):
            record = thing(f"p/{number}")
            record.spec.filling = bytes(600_000)
            await create(plane, table, record)
        page = await table.list("p/")
        assert len(page.items) == 2 and page.next_page_token


async def test_a_token_fits_its_own_list_only(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        for number in range(3):
            await create(plane, table, thing(f"p/{number}"))
        page = await table.list("p/", page_size=1)
        for token, prefix in ((page.next_page_token, "q/"), (page.next_page_token[:-2] + "AA", "p/"), ("rubbish", "p/"), ("é", "p/")):
            with pytest.raises(InvalidArgument) as refusal:
                await table.list(prefix, page_token=token)
            assert (refusal.value.reason, refusal.value.field) == ("PAGE_TOKEN_INVALID", "page_token")


async def test_a_guard_of_the_callers_own_says_what_it_means(plane: Plane) -> None:
    table = things(plane)
    async with plane:
        txn = plane.txn()
        txn.require_absent("address/n1/10.0.0.5", AlreadyExists("ADDRESS_TAKEN", "10.0.0.5 is taken"))
        txn.put("address/n1/10.0.0.5", b"port")
        await txn.commit()
        again = plane.txn()
        again.create(table, thing("a/1"))
        again.require_absent("address/n1/10.0.0.5", AlreadyExists("ADDRESS_TAKEN", "10.0.0.5 is taken"))
        with pytest.raises(AlreadyExists, match="ADDRESS_TAKEN"):
            await again.commit()
        assert await table.get("a/1") is None


async def test_a_required_record_must_live(plane: Plane) -> None:
    things(plane)
    async with plane:
        txn = plane.txn()
        txn.put("x", b"")
        txn.require_live(Reference(Thing, "nobody", name="a/nobody"))
        with pytest.raises(TargetGone, match="a/nobody"):
            await txn.commit()
