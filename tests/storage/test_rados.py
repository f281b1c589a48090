"""The control path's connections: they do not hang, they come back, and a full cluster says so."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kumo.errors import FailedPrecondition, ResourceExhausted, Unavailable
from kumo.ids import new_uid
from storage.block.mark import change_mark, read_mark
from storage.block.volumes import Wanted, delete_volume, ensure_volume, find_volume
from storage.mark import Mark
from storage.rados import Access, Cluster, Connection
from tests.ceph import Ceph

MIB = 1 << 20


def command(cluster: Any, prefix: str, **arguments: object) -> Any:
    code, out, error = cluster.mon_command(json.dumps({"prefix": prefix, "format": "json", **arguments}), b"")
    assert code == 0, error
    return json.loads(out) if out.strip() else None


async def until(check: Callable[[], bool], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not await asyncio.to_thread(check):  # noqa: ASYNC110  # what is waited for has no event to hand out
            await asyncio.sleep(0.05)


@pytest.fixture
async def cluster(ceph: Ceph) -> AsyncIterator[Cluster]:
    cluster = Cluster(Access(ceph.conf_file, ceph.user, op_timeout_s=3.0))
    yield cluster
    await cluster.close()


def make(connection: Connection, uid: str) -> None:
    ensure_volume(connection.pool("volumes"), connection.pool("images"), Wanted(uid, MIB, 1))


def remove(connection: Connection, uid: str) -> None:
    delete_volume(connection.pool("volumes"), uid)


async def test_the_key_of_a_host_does_what_it_needs_and_no_more(ceph: Ceph, cluster: Cluster) -> None:
    uid = new_uid()
    await cluster.run("making", lambda c: make(c, uid))
    await cluster.run("removing", lambda c: remove(c, uid))
    with ceph.admin() as admin:
        command(admin, "osd pool create", pool="others", pg_num=1)
        with admin.open_ioctx("others") as io:
            io.write_full("secret", b"x")

        def try_all(connection: Connection) -> list[int]:
            io = connection.rados.open_ioctx("others")
            codes = []
            for method, arguments in (("read", ("secret",)), ("write_full", ("mine", b"x")), ("remove_object", ("secret",))):
                try:
                    getattr(io, method)(*arguments)
                    codes.append(0)
                except Exception as error:  # noqa: BLE001  # whatever the bindings raise
                    codes.append(getattr(error, "errno", -1))
            io.close()
            blocklist = {"prefix": "osd blocklist", "blocklistop": "add", "addr": "127.0.0.1:0/999"}
            for order in (blocklist, {"prefix": "osd set", "key": "noout"}, {"prefix": "auth ls"}):
                codes.append(connection.rados.mon_command(json.dumps(order), b"")[0])
            return codes

        assert await cluster.run("trying", try_all) == [1, 1, 1, -13, -13, -13]
        command(admin, "osd pool delete", pool="others", pool2="others", yes_i_really_really_mean_it=True)


async def test_a_cluster_that_does_not_answer_is_said_and_what_timed_out_may_have_happened(ceph: Ceph, cluster: Cluster) -> None:
    uid = new_uid()
    await cluster.run("making", lambda c: make(c, uid))
    mine = Mark("s1", "h1", 1, 1)
    ceph.signal("ceph-osd", signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match=r"CEPH_TIMEOUT.*unknown"):
            async with cluster.shared() as connection:
                await change_mark(connection, "volumes", uid, Mark(), mine)
    finally:
        ceph.signal("ceph-osd", signal.SIGCONT)
    # Asking again is right whether it happened or not.
    async with asyncio.timeout(20):
        while True:
            try:
                async with cluster.shared() as connection:
                    assert await change_mark(connection, "volumes", uid, Mark(), mine) == mine
                break
            except Unavailable:
                continue
    await cluster.run("removing", lambda c: remove(c, uid))


async def test_a_connection_that_was_fenced_is_given_up_for_a_new_one(ceph: Ceph, cluster: Cluster) -> None:
    address = await cluster.run("asking", lambda c: c.address())
    with ceph.admin() as admin:
        command(admin, "osd blocklist", blocklistop="add", addr=address)
        admin.wait_for_latest_osdmap()
        uid = new_uid()
        reasons = set()
        async with asyncio.timeout(20):
            while True:
                try:
                    await cluster.run("making", lambda c: make(c, uid))
                    break
                except Unavailable as error:
                    reasons.add(error.reason)
        assert await cluster.run("asking", lambda c: c.address()) != address
        assert reasons <= {"CEPH_CONNECTION_LOST", "CEPH_TIMEOUT"}
        command(admin, "osd blocklist", blocklistop="rm", addr=address)
    await cluster.run("removing", lambda c: remove(c, uid))


async def test_a_full_cluster_is_said_and_a_volume_is_not_taken_for_deleted(ceph: Ceph, cluster: Cluster) -> None:
    uid = new_uid()
    await cluster.run("making", lambda c: make(c, uid))
    with ceph.admin() as admin:

        def is_full() -> bool:
            return any(check == "OSD_FULL" for check in command(admin, "health")["checks"])

        for kind, ratio in (("nearfull", 0.0001), ("backfillfull", 0.0002), ("full", 0.0003)):
            command(admin, f"osd set-{kind}-ratio", ratio=ratio)
        try:
            await until(is_full)
            admin.wait_for_latest_osdmap()
            with pytest.raises((ResourceExhausted, Unavailable)):
                await cluster.run("making", lambda c: make(c, new_uid()))
            assert await cluster.run("looking", lambda c: find_volume(c.pool("volumes"), uid)) is not None
            try:
                await cluster.run("removing", lambda c: remove(c, uid))
            except (ResourceExhausted, Unavailable, FailedPrecondition):
                assert await cluster.run("looking", lambda c: find_volume(c.pool("volumes"), uid)) is not None
            else:
                assert await cluster.run("looking", lambda c: find_volume(c.pool("volumes"), uid)) is None
        finally:
            for kind, ratio in (("full", 0.9), ("backfillfull", 0.88), ("nearfull", 0.85)):
                command(admin, f"osd set-{kind}-ratio", ratio=ratio)
        await until(lambda: not is_full())
    async with asyncio.timeout(30):
        while True:
            try:
                await cluster.run("removing", lambda c: remove(c, uid))
                break
            except Unavailable:
                continue
    assert await cluster.run("looking", lambda c: find_volume(c.pool("volumes"), uid)) is None
    async with cluster.shared() as connection:
        assert await read_mark(connection, "volumes", uid) is None
