"""The region and its cell: what is told, told again, taken up and shown through restarts, silence, refusals and restored stores."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kumo.api.cell.v1 import cell_pb2
from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1 import event_pb2, host_pb2
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.api.network.v1 import network_pb2
from kumo.api.type.v1.placement_pb2 import Share
from kumo.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, Unavailable
from kumo.ids import new_uid
from kumo.rpc.call import Audience, Principal
from kumo.store import ops
from tests.controller.region.cell_double import CellDouble
from tests.controller.region.region_process import PROJECT, Rig, Site, eventually, subnet_request


def condition(record: Any, kind: str) -> Any:
    return next((one for one in record.status.conditions if one.type == kind), None)


def placed_is(rig: Rig, name: str, reason: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        found = condition(await rig.api.server(name), "Placed")
        return (found.reason if found is not None else "") == reason

    return check


async def test_a_server_that_waits_for_room_says_why_and_goes_on_when_there_is_some(rig: Rig) -> None:
    rig.cell.room = 0
    await rig.api.create_server("big")
    await eventually(placed_is(rig, "big", "NO_ROOM"))
    waiting = await rig.api.server("big")
    assert waiting.status.state == Server.CREATING
    said = condition(waiting, "Placed")
    assert (said.message, said.fix, said.operator_message) == ("ask for less", "use a smaller flavor", "3 hosts: 3 have no room")
    assert waiting.status.placement.shares[0].answer == Share.WAITING
    rig.cell.room = 1
    for uid, thing in list(rig.cell.things.items()):
        if thing.kind == "server":
            rig.cell.settle(uid)
    await eventually(rig.state_is("big", Server.ACTIVE))
    assert condition(await rig.api.server("big"), "Placed") is None


async def test_a_server_that_no_cell_takes_waits_in_the_region_and_can_be_deleted(rig: Rig) -> None:
    rig.cell.refuses = True
    await rig.api.create_server("big")
    await eventually(placed_is(rig, "big", "NO_ROOM"))

    async def region_says_it() -> bool:
        said = condition(await rig.api.server("big"), "Placed")
        return said is not None and "a: REFUSED" in said.operator_message

    await eventually(region_says_it)
    assert [share.answer for share in (await rig.api.server("big")).status.placement.shares] == [Share.REFUSED]
    await rig.api.delete_server("big")
    await eventually(rig.is_gone("big"))
    assert await rig.keys("address/") == []


async def test_a_new_controller_tells_only_what_the_cell_does_not_hold(site: Site) -> None:
    async with site.running() as rig:
        await rig.furnish()
        await rig.api.create_server("web")
        await eventually(rig.state_is("web", Server.ACTIVE))
        await eventually(lambda: held(site.cell, "network", 1))
    told = len(site.cell.applied)
    async with site.running() as rig:
        await rig.api.servers.StopServer(server_pb2.StopServerRequest(name=f"{PROJECT}/servers/web"))
        await eventually(rig.state_is("web", Server.STOPPED))
        assert [request.WhichOneof("order") for request in site.cell.applied[told:]] == ["server"]
        terms = [(request.stamp.term.incarnation, request.stamp.term.create_revision) for request in site.cell.applied]
        assert terms == sorted(terms)
        assert len(set(terms)) == 2


async def held(cell: CellDouble, kind: str, count: int) -> bool:
    return len(cell.of_kind(kind)) == count


async def test_what_happened_while_no_controller_ran_is_taken_up_and_ends_are_acknowledged_once(site: Site) -> None:
    async with site.running() as rig:
        await rig.furnish()
        await rig.api.create_server("web")
        await eventually(rig.state_is("web", Server.ACTIVE))
        await eventually(lambda: held(site.cell, "port", 1))
        site.cell.says_ended = False
        await rig.api.delete_server("web")
        await eventually(lambda: told_to_go(site.cell, 4))
    for uid, thing in list(site.cell.things.items()):
        if thing.record.HasField("delete_time"):
            site.cell.end(uid)
    async with site.running() as rig:
        await eventually(rig.is_gone("web"))
        await eventually(lambda: told_to_go(site.cell, 0))
        assert len(site.cell.acknowledged) == 4


async def told_to_go(cell: CellDouble, count: int) -> bool:
    return len([thing for thing in cell.things.values() if thing.record.HasField("delete_time")]) == count


async def test_a_cell_that_forgot_its_history_is_read_from_the_beginning(site: Site) -> None:
    async with site.running() as rig:
        await rig.furnish()
        await rig.api.create_server("web")
        await eventually(rig.state_is("web", Server.ACTIVE))
    site.cell.life = new_uid()
    for uid, thing in list(site.cell.things.items()):
        if thing.kind == "server":
            thing.record.spec.power = Server.OFF
            site.cell.settle(uid)
    async with site.running() as rig:
        await eventually(rig.state_is("web", Server.STOPPED))


async def test_a_silent_cell_is_shown_as_stale_its_hosts_answer_at_once_and_it_comes_back(rig: Rig) -> None:
    await rig.api.create_server("web")
    await eventually(rig.state_is("web", Server.ACTIVE))
    rig.cell.thawed.clear()
    await eventually(lambda: is_stale(rig, "web"), 15)
    server = await rig.api.server("web")
    assert server.status.state == Server.ACTIVE
    assert "cell a" in condition(server, "Fresh").operator_message
    assert "cell a" not in condition(server, "Fresh").message
    async with asyncio.timeout(1.0):
        with pytest.raises(Unavailable) as refused:
            await rig.api.hosts.CreateHost(host_request("h9"))
    assert refused.value.reason == "CELL_SILENT"
    # What is asked for is taken in all the same, and waits.
    await rig.api.create_server("later")
    rig.cell.thawed.set()
    await eventually(lambda: is_fresh(rig, "web"), 15)
    await eventually(rig.state_is("later", Server.ACTIVE))


async def is_stale(rig: Rig, name: str) -> bool:
    return condition(await rig.api.server(name), "Fresh") is not None


async def is_fresh(rig: Rig, name: str) -> bool:
    return not await is_stale(rig, name)


async def test_a_restored_store_adopts_what_the_cell_holds_and_numbers_on_from_there(site: Site) -> None:
    async with site.running() as rig:
        await rig.furnish()
        await rig.api.create_server("web")
        await eventually(rig.state_is("web", Server.ACTIVE))
        incarnation = rig.region.plane.keys.raw("incarnation")
        # What whoever restores a store does, and what the store does not remember: the cell is ahead by some generations.
        await rig.region.plane.etcd.txn(success=[_put(incarnation, new_uid().encode())])
    for thing in site.cell.things.values():
        if thing.kind == "server":
            thing.stamp.generation, thing.stamp.epoch.cell = 7, 3
    async with site.running() as rig:
        await eventually(lambda: at_least(rig, "web", 8))
        await eventually(rig.state_is("web", Server.ACTIVE))
        server = await rig.api.server("web")
        assert server.status.placement.shares[-1].epoch == 3
        stopped = await rig.api.servers.StopServer(server_pb2.StopServerRequest(name=server.name))
        assert stopped.generation > 8
        await eventually(rig.state_is("web", Server.STOPPED))


def _put(key: bytes, value: bytes) -> Any:
    return ops.put(key, value)


async def at_least(rig: Rig, name: str, generation: int) -> bool:
    return (await rig.api.server(name)).generation >= generation


async def test_a_network_carries_its_subnets_to_the_cell_and_is_told_again_when_they_change(rig: Rig) -> None:
    await rig.api.create_server("web")
    await eventually(lambda: subnets_told(rig, {"10.0.0.0/24"}))
    await rig.api.subnets.CreateSubnet(subnet_request("more", "10.0.1.0/24"))
    await eventually(lambda: subnets_told(rig, {"10.0.0.0/24", "10.0.1.0/24"}))

    async def observed() -> bool:
        network = await rig.api.networks.GetNetwork(network_pb2.GetNetworkRequest(name=f"{PROJECT}/networks/net"))
        return bool(network.status.observed_generation == network.generation == 3)

    await eventually(observed)


async def subnets_told(rig: Rig, cidrs: set[str]) -> bool:
    orders = [thing.order for thing in rig.cell.things.values() if thing.kind == "network"]
    return bool(orders) and {subnet.spec.cidr for subnet in orders[0].subnets} == cidrs


async def test_events_of_the_cell_appear_once_even_if_they_are_told_twice(rig: Rig) -> None:
    server = await rig.api.create_server("web")
    event = Event(
        uid=new_uid(), subject=server.name, subject_uid=server.uid, severity=Event.INFO, reason="PLACED", message="it is on a host"
    )
    event.operator_message = "it is on h1"
    event.create_time.GetCurrentTime()
    for _ in range(3):
        rig.cell.say(cell_pb2.Fact(uid=event.uid, event=event))

    async def seen() -> bool:
        request = event_pb2.ListEventsRequest(parent=PROJECT, filter=f'subject = "{server.name}" AND reason = "PLACED"')
        return len((await rig.api.events.ListEvents(request)).events) == 1

    await eventually(seen)


def host_request(name: str, cell: str = "a", **fields: Any) -> host_pb2.CreateHostRequest:
    spec = host_pb2.Host.Spec(cell=cell, agent_address="127.0.0.1:1", tunnel_address="10.0.0.1", storage_address="10.0.0.1")
    return host_pb2.CreateHostRequest(host_id=name, host=host_pb2.Host(spec=spec), **fields)


async def test_hosts_are_changed_in_the_cell_and_read_from_the_copy(rig: Rig) -> None:
    made = await rig.api.hosts.CreateHost(host_request("h7"))
    assert made.status.state == host_pb2.Host.UP
    read = await rig.api.hosts.GetHost(host_pb2.GetHostRequest(name="hosts/h7"))
    assert (read.uid, read.etag) == (made.uid, made.etag)
    changed = host_pb2.Host(name="hosts/h7", etag=read.etag, spec=read.spec)
    changed.spec.cordoned = True
    request = host_pb2.UpdateHostRequest(host=changed)
    request.update_mask.paths.append("spec.cordoned")
    updated = await rig.api.hosts.UpdateHost(request)
    assert (updated.spec.cordoned, updated.generation) == (True, 2)
    with pytest.raises(Aborted):
        await rig.api.hosts.UpdateHost(request)
    with pytest.raises(AlreadyExists):
        await rig.api.hosts.CreateHost(host_request("h7"))
    with pytest.raises(FailedPrecondition):
        await rig.api.hosts.CreateHost(host_request("h8", cell="nowhere"))
    assert await rig.keys("host-cell/") == ["host-cell/hosts/h7"]
    await rig.api.hosts.DeleteHost(host_pb2.DeleteHostRequest(name="hosts/h7", etag=updated.etag))
    with pytest.raises(NotFound):
        await rig.api.hosts.GetHost(host_pb2.GetHostRequest(name="hosts/h7"))


async def test_two_controllers_serve_the_same_and_one_leads(site: Site) -> None:
    async with site.running() as first:
        await first.furnish()
        async with site.running() as second:
            await first.api.create_server("one")
            await second.api.create_server("two")
            await eventually(second.state_is("one", Server.ACTIVE))
            await eventually(first.state_is("two", Server.ACTIVE))
            results = await asyncio.gather(
                *(rig.api.create_server(f"s{n}") for n in range(6) for rig in (first, second)), return_exceptions=True
            )
            assert sum(isinstance(result, Server) for result in results) == 6
            assert (await first.usage())["servers"] == 8


async def test_a_tenant_is_told_to_wait_and_not_where_its_server_is(site: Site) -> None:
    who = Principal("operator", Audience.OPERATOR)

    def principal(_context: Any) -> Principal:
        return who

    async with site.running(principal) as rig:
        await rig.furnish()
        await rig.api.create_server("web")
        await eventually(rig.state_is("web", Server.ACTIVE))
        who = Principal("bob", Audience.TENANT, frozenset({PROJECT}))
        rig.cell.thawed.clear()
        await eventually(lambda: is_stale(rig, "web"), 15)
        with pytest.raises(Unavailable) as refused:
            async for _ in rig.api.servers.ReadConsoleLog(server_pb2.ReadConsoleLogRequest(name=f"{PROJECT}/servers/web")):
                pass
        assert refused.value.reason == "PLACE_UNAVAILABLE"
        assert "cell" not in refused.value.message + str(refused.value.metadata)


def follower() -> FailedPrecondition:
    return FailedPrecondition("NOT_LEADER", "this controller does not lead cell a", fix="ask the leader", address="", cell="a")


async def console_log(rig: Rig) -> bytes:
    request = server_pb2.ReadConsoleLogRequest(name=f"{PROJECT}/servers/web")
    return b"".join([piece.output async for piece in rig.api.servers.ReadConsoleLog(request)])


async def test_who_reads_a_log_does_not_hear_of_elections(rig: Rig) -> None:
    await rig.api.create_server("web")
    await eventually(rig.state_is("web", Server.ACTIVE))
    rig.cell.refusals = [follower(), Unavailable("CELL_STARTING", "just elected"), Unavailable("HOST_NOT_DIALLED", "not dialled yet")]
    assert await console_log(rig) == b"x" * 3000
    rig.cell.refusals = [follower()] * 100
    with pytest.raises(Unavailable) as refused:
        await console_log(rig)
    assert refused.value.reason == "CELL_LEADERLESS" and "leader" not in refused.value.fix
    rig.cell.refusals = [Unavailable("HOST_SILENT", "it is away")]
    with pytest.raises(Unavailable) as refused:
        await console_log(rig)
    assert refused.value.reason == "HOST_SILENT" and not rig.cell.refusals
