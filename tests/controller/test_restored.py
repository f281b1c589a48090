"""etcd is put back to a snapshot of a while ago: agents obey the new leaders, what was there goes on, what went since is not doubled,
and what was made since has its address and its room to itself.
"""

import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.config import region_prefix
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.network.v1 import port_pb2
from kumo.errors import FailedPrecondition
from kumo.ids import is_uid
from kumo.store import incarnation, ops, snapshot
from kumo.store.client import Etcd
from kumo.store.loader import load_range
from tests.controller.cell.world import Cloud
from tests.controller.region.region_process import PROJECT, Rig, eventually
from tests.controller.test_whole import cloud as cloud  # noqa: PLC0414  # a fixture
from tests.controller.test_whole import furnish, region_of, state, verb
from tests.controller.test_whole import whole_store as whole_store  # noqa: PLC0414
from tests.etcd import cluster


async def go_back(cloud: Cloud, addresses: list[str], file: Path) -> None:
    """Do what a restore does: fill an empty etcd, and tell both planes."""
    async with Etcd(addresses) as etcd:
        await snapshot.restore(etcd, snapshot.read(file))
        for prefix in (cloud.prefix, region_prefix("local")):
            assert await incarnation.renew(etcd, prefix)


async def save(cloud: Cloud, file: Path) -> None:
    async with Etcd(cloud.etcd_addresses) as etcd:
        await snapshot.save(etcd, file)


def guests(agent: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((agent.state / "hypervisor.json").read_text())["servers"]
    return found


async def addresses(rig: Rig) -> list[str]:
    """Return every address that a guest of the region may use."""
    ports = await rig.api.ports.ListPorts(port_pb2.ListPortsRequest(parent=PROJECT))
    return [f"{port.spec.network_uid} {port.spec.address}" for port in ports.ports]


async def test_after_a_restore_agents_obey_and_nothing_is_given_twice(cloud: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(cloud.agent(memory_mib=768))
        async with cloud.lead(), region_of(cloud) as rig:
            await furnish(rig, agent)
            for name in ("old", "doomed", "stopped"):
                await rig.api.create_server(name)
                await state(rig, name, Server.ACTIVE)
            await save(cloud, file)
            lost = await rig.api.create_server("lost")
            await state(rig, "lost", Server.ACTIVE)
            await rig.api.servers.StopServer(verb("Stop", "stopped"))
            await state(rig, "stopped", Server.STOPPED)
            await rig.api.delete_server("doomed")
            await eventually(rig.is_gone("doomed"), 20)
            old = await rig.api.server("old")
        before = guests(agent)
        assert lost.uid in before
        with cluster() as fresh:
            await go_back(cloud, fresh.addresses, file)
            again = replace(cloud, etcd_addresses=fresh.addresses)
            async with again.lead(), region_of(again) as rig:
                # Asked for at once, before anybody knows of what was made since the snapshot; of the same name, too.
                made = await rig.api.create_server("lost")
                await state(rig, "lost", Server.ACTIVE)
                assert lost.uid not in guests(agent), "what nobody knows any more went first"
                await eventually(rig.state_is("old", Server.ACTIVE), 20)
                await state(rig, "stopped", Server.ACTIVE)
                assert guests(agent)[old.uid]["pid"] == before[old.uid]["pid"], "it was not started anew"
                assert set(guests(agent)) == {old.uid, made.uid, (await rig.api.server("stopped")).uid}
                assert len(await addresses(rig)) == len(set(await addresses(rig))) == 4
                await eventually(says_that_its_disk_is_gone(rig), 20)
                for name in ("old", "doomed", "stopped", "lost"):
                    await rig.api.delete_server(name)
                    await eventually(rig.is_gone(name), 20)
                assert guests(agent) == {}
                assert await rig.keys("address/") == []


def says_that_its_disk_is_gone(rig: Rig) -> Callable[[], Awaitable[bool]]:
    """What was deleted since the snapshot is asked for again, and cannot be had: its disk went, and no other is made in its place."""

    async def check() -> bool:
        said = (await rig.api.server("doomed")).status.conditions
        return any(one.type == "GoesOn" and one.reason == "VOLUME_NOT_FOUND" for one in said)

    return check


async def test_a_snapshot_that_is_not_whole_and_a_store_that_is_not_empty_are_refused(cloud: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    async with Etcd(cloud.etcd_addresses) as etcd:
        await etcd.txn(success=[ops.put(b"/kumo/%d" % number, bytes(10_000)) for number in range(150)])
        leased = await etcd.lease(60)
        await etcd.txn(success=[ops.put(b"/kumo/lead", b"me", leased.id)])
        assert await snapshot.save(etcd, file) == 150
        assert file.stat().st_mode & 0o777 == 0o600
        with pytest.raises(FailedPrecondition, match="STORE_NOT_EMPTY"):
            await snapshot.restore(etcd, snapshot.read(file))
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + b"x", b"", whole.replace(b'"format": 1', b'"format": 9')):
        file.write_bytes(damaged)
        with pytest.raises(FailedPrecondition):
            snapshot.read(file)
    file.write_bytes(whole)
    with cluster() as fresh:
        async with Etcd(fresh.addresses) as etcd:
            await snapshot.restore(etcd, snapshot.read(file))
            assert len(await load_range(etcd, b"/kumo/")) == 150


def test_an_incarnation_is_greater_than_the_last_one_whatever_the_clock_says() -> None:
    late = "ffffffff-ffff-7fff-8fff-fffffffffff0"
    assert incarnation.after(late) > late and is_uid(incarnation.after(late))
    assert incarnation.after("01a20cf4-a55a-7077-b0a2-095bffef036d") > "01a20cf4-a55a-7077-b0a2-095bffef036d"
