"""Servers through the API: what one create makes, what one delete ends, what verbs change, and what is refused with which reason."""

import asyncio
import random
from typing import Any

import pytest

from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1 import event_pb2
from kumo.api.image.v1 import image_pb2
from kumo.api.network.v1 import port_pb2
from kumo.api.storage.v1 import attachment_pb2, volume_pb2
from kumo.errors import AlreadyExists, Error, FailedPrecondition, InvalidArgument, NotFound
from kumo.ids import new_uid
from tests.controller.region.region_process import PROJECT, Rig, eventually, server_request

NET = {"network": f"{PROJECT}/networks/net"}


async def port(rig: Rig, name: str) -> Any:
    return await rig.api.ports.GetPort(port_pb2.GetPortRequest(name=f"{PROJECT}/ports/{name}"))


async def create_port(rig: Rig, name: str, **fields: Any) -> Any:
    spec = port_pb2.Port.Spec(network=NET["network"], **fields)
    return await rig.api.ports.CreatePort(port_pb2.CreatePortRequest(parent=PROJECT, port_id=name, port=port_pb2.Port(spec=spec)))


def verb(kind: str, name: str, **fields: Any) -> Any:
    return getattr(server_pb2, f"{kind}ServerRequest")(name=f"{PROJECT}/servers/{name}", **fields)


async def test_a_create_makes_the_server_and_all_that_goes_with_it(rig: Rig) -> None:
    made = await rig.api.create_server("web", nics=[NET, NET], ssh_keys=["ssh-ed25519 AAAA me"], user_data=b"#!/bin/sh")
    assert (made.status.state, made.spec.power, made.generation) == (Server.CREATING, Server.RUNNING, 1)
    assert (made.spec.vcpus, made.spec.memory_mib, made.spec.disk_gib, made.spec.pool) == (1, 64, 1, "pools/main")
    assert not made.spec.user_data
    first, second = await port(rig, "web-0"), await port(rig, "web-1")
    assert [nic.port_uid for nic in made.spec.nics] == [first.uid, second.uid]
    assert first.spec.address != second.spec.address
    assert first.spec.mac != second.spec.mac
    assert first.owner == first.spec.server == made.name
    volume = await rig.api.volumes.GetVolume(volume_pb2.GetVolumeRequest(name=made.spec.root_volume))
    assert (volume.owner_uid, volume.spec.size_gib, volume.spec.image_uid) == (made.uid, 1, made.spec.image_uid)
    attachment = await rig.api.attachments.GetAttachment(attachment_pb2.GetAttachmentRequest(name=f"{PROJECT}/attachments/web-root"))
    assert (attachment.spec.server_uid, attachment.spec.volume_uid, attachment.spec.root) == (made.uid, volume.uid, True)
    await eventually(rig.state_is("web", Server.ACTIVE))
    told = next(thing for thing in rig.cell.things.values() if thing.kind == "server")
    assert told.order.user_data == b"#!/bin/sh"
    assert not told.record.HasField("status")
    await eventually(lambda: all_held(rig))


async def all_held(rig: Rig) -> bool:
    return [len(rig.cell.of_kind(kind)) for kind in ("port", "volume", "attachment", "network")] == [2, 1, 1, 1]


async def test_a_deleted_server_keeps_its_name_until_the_cell_has_nothing_left_and_then_all_is_free(rig: Rig) -> None:
    before, keys_before = await rig.usage(), await rig.keys("address/")
    await rig.api.create_server("web")
    await eventually(rig.state_is("web", Server.ACTIVE))
    rig.cell.says_ended = False
    deleted = await rig.api.delete_server("web")
    assert deleted.status.state == Server.DELETING
    assert (await rig.api.delete_server("web")).etag == deleted.etag
    await eventually(lambda: all_told_to_go(rig))
    with pytest.raises(AlreadyExists):
        await rig.api.create_server("web")
    assert await rig.usage() != before
    for uid, thing in list(rig.cell.things.items()):
        if thing.record.HasField("delete_time"):
            rig.cell.end(uid)
    await eventually(rig.is_gone("web"))
    assert {kind: amount for kind, amount in (await rig.usage()).items() if amount} == before
    assert await rig.keys("address/") == keys_before == []
    assert await rig.keys("secret/") == await rig.keys("mac/") == []
    await eventually(lambda: acknowledged(rig, 4))
    rig.cell.says_ended = True
    await rig.api.create_server("web")
    await eventually(rig.state_is("web", Server.ACTIVE))


async def all_told_to_go(rig: Rig) -> bool:
    return len([thing for thing in rig.cell.things.values() if thing.record.HasField("delete_time")]) == 4


async def acknowledged(rig: Rig, count: int) -> bool:
    return len(rig.cell.acknowledged) == count


async def test_its_events_tell_the_story_of_a_server(rig: Rig) -> None:
    made = await rig.api.create_server("web")
    await rig.api.servers.StopServer(verb("Stop", "web"))
    await rig.api.delete_server("web")
    await eventually(rig.is_gone("web"))
    request = event_pb2.ListEventsRequest(parent=PROJECT, filter=f'subject = "{made.name}"')
    events = (await rig.api.events.ListEvents(request)).events
    assert [event.reason for event in events] == ["CREATED", "STOPPING", "DELETING", "DELETED"]
    assert {event.subject_uid for event in events} == {made.uid}


async def test_verbs_change_what_is_asked_and_the_state_shows_it_at_once(rig: Rig) -> None:
    await rig.api.create_server("web")
    await eventually(rig.state_is("web", Server.ACTIVE))
    stopped = await rig.api.servers.StopServer(verb("Stop", "web", mode=server_pb2.STOP_MODE_HARD))
    assert (stopped.status.state, stopped.spec.power, stopped.spec.hard) == (Server.STOPPING, Server.OFF, True)
    await eventually(rig.state_is("web", Server.STOPPED))
    with pytest.raises(FailedPrecondition) as refused:
        await rig.api.servers.RebootServer(verb("Reboot", "web"))
    assert refused.value.reason == "SERVER_OFF"
    started = await rig.api.servers.StartServer(verb("Start", "web"))
    assert (started.status.state, started.spec.hard) == (Server.STARTING, False)
    await eventually(rig.state_is("web", Server.ACTIVE))
    again = await rig.api.servers.StartServer(verb("Start", "web"))
    assert again.etag == started.etag
    request_id = new_uid()
    answers = [await rig.api.servers.RebootServer(verb("Reboot", "web", request_id=request_id)) for _ in range(3)]
    assert [answer.spec.reboots for answer in answers] == [1, 1, 1]
    await eventually(rig.state_is("web", Server.ACTIVE))
    assert (await rig.api.servers.RebootServer(verb("Reboot", "web", request_id=new_uid()))).spec.reboots == 2


async def test_a_request_sent_again_is_answered_alike_and_done_once_also_at_the_same_time(rig: Rig) -> None:
    request = server_request("web", request_id=new_uid())
    answers = await asyncio.gather(*(rig.api.servers.CreateServer(request) for _ in range(5)))
    assert len({answer.uid for answer in answers}) == 1
    again = await rig.api.servers.CreateServer(request)
    assert again.uid == answers[0].uid
    assert (await rig.usage())["servers"] == 1
    other = server_request("other", request_id=request.request_id)
    with pytest.raises(InvalidArgument) as refused:
        await rig.api.servers.CreateServer(other)
    assert (refused.value.reason, refused.value.field) == ("REQUEST_ID_REUSED", "request_id")
    await rig.api.delete_server("web")
    await eventually(rig.is_gone("web"))
    with pytest.raises(NotFound) as gone:
        await rig.api.servers.CreateServer(request)
    assert gone.value.reason == "RESULT_GONE"


async def test_a_request_is_done_once_even_if_what_it_used_cannot_be_used_twice(rig: Rig) -> None:
    await create_port(rig, "p")
    request = server_request("web", nics=[{"port": f"{PROJECT}/ports/p"}], request_id=new_uid())
    first = await rig.api.servers.CreateServer(request)
    assert (await rig.api.servers.CreateServer(request)).uid == first.uid


async def test_validate_only_says_what_would_happen_and_changes_nothing(rig: Rig) -> None:
    before = await rig.keys("")
    would = await rig.api.create_server("web", validate_only=True)
    assert would.spec.vcpus == 1
    with pytest.raises(NotFound):
        await rig.api.create_server("web", flavor="flavors/none", validate_only=True)
    assert await rig.keys("") == before
    await rig.api.create_server("web")
    with pytest.raises(AlreadyExists):
        await rig.api.create_server("web", validate_only=True)
    await rig.api.servers.DeleteServer(server_pb2.DeleteServerRequest(name=f"{PROJECT}/servers/web", validate_only=True))
    assert not (await rig.api.server("web")).HasField("delete_time")


async def test_a_port_of_its_own_is_plugged_in_and_given_back(rig: Rig) -> None:
    made = await create_port(rig, "p", address="10.0.0.77")
    assert made.status.state == port_pb2.Port.DOWN
    server = await rig.api.create_server("web", nics=[{"port": made.name}, NET])
    assert server.spec.nics[0].network_uid == made.spec.network_uid
    await eventually(rig.state_is("web", Server.ACTIVE))
    with pytest.raises(FailedPrecondition) as used:
        await rig.api.create_server("other", nics=[{"port": made.name}])
    assert (used.value.reason, used.value.field) == ("PORT_IN_USE", "server.spec.nics[0].port")
    with pytest.raises(FailedPrecondition) as kept:
        await rig.api.ports.DeletePort(port_pb2.DeletePortRequest(name=made.name))
    assert (kept.value.reason, kept.value.metadata["referrers"]) == ("IN_USE", server.name)
    await rig.api.delete_server("web")
    await eventually(rig.is_gone("web"))
    free = await port(rig, "p")
    assert (free.spec.server, free.spec.address) == ("", "10.0.0.77")
    await eventually(lambda: nothing_held(rig, "port"))
    await rig.api.create_server("other", nics=[{"port": made.name}])
    await eventually(rig.state_is("other", Server.ACTIVE))
    await rig.api.delete_server("other")
    await eventually(rig.is_gone("other"))
    await rig.api.ports.DeletePort(port_pb2.DeletePortRequest(name=made.name))
    await eventually(lambda: no_ports(rig))


async def nothing_held(rig: Rig, kind: str) -> bool:
    return not rig.cell.of_kind(kind)


async def no_ports(rig: Rig) -> bool:
    return not (await rig.api.ports.ListPorts(port_pb2.ListPortsRequest(parent=PROJECT))).ports


async def test_what_belongs_to_a_server_is_not_deleted_by_itself(rig: Rig) -> None:
    server = await rig.api.create_server("web")
    with pytest.raises(FailedPrecondition) as refused:
        await rig.api.ports.DeletePort(port_pb2.DeletePortRequest(name=f"{PROJECT}/ports/web-0"))
    assert (refused.value.reason, refused.value.metadata["owner"]) == ("OWNED", server.name)
    with pytest.raises(FailedPrecondition) as volume:
        await rig.api.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(name=server.spec.root_volume))
    assert volume.value.reason == "OWNED"


async def test_children_get_another_name_where_theirs_is_taken_or_too_long(rig: Rig) -> None:
    await create_port(rig, "web-0")
    server = await rig.api.create_server("web")
    assert server.spec.nics[0].port.startswith(f"{PROJECT}/ports/web-")
    assert server.spec.nics[0].port != f"{PROJECT}/ports/web-0"
    long = await rig.api.create_server("a" * 63)
    assert len(long.spec.nics[0].port.split("/")[-1]) <= 63
    assert len(long.spec.root_volume.split("/")[-1]) <= 63


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"flavor": "flavors/none"}, "FLAVOR_NOT_FOUND", "server.spec.flavor"),
        ({"image": f"{PROJECT}/images/none"}, "IMAGE_NOT_FOUND", "server.spec.image"),
        ({"image": f"{PROJECT}/images/raw"}, "IMAGE_NOT_ACTIVE", "server.spec.image"),
        ({"pool": "pools/other"}, "IMAGE_IN_OTHER_POOL", "server.spec.pool"),
        ({"nics": [{}]}, "NETWORK_OR_PORT", "server.spec.nics[0]"),
        ({"nics": [NET | {"port": f"{PROJECT}/ports/p"}]}, "NETWORK_OR_PORT", "server.spec.nics[0]"),
        ({"nics": [NET, {"network": f"{PROJECT}/networks/none"}]}, "NETWORK_NOT_FOUND", "server.spec.nics[1].network"),
        ({"nics": [{"port": f"{PROJECT}/ports/none"}]}, "PORT_NOT_FOUND", "server.spec.nics[0].port"),
        ({"nics": [{"port": f"{PROJECT}/ports/p"}] * 2}, "PORT_TWICE", "server.spec.nics[1].port"),
    ],
)
async def test_a_create_that_cannot_be_is_refused_with_reason_field_and_fix_and_leaves_nothing(
    rig: Rig, fields: dict[str, Any], reason: str, field: str
) -> None:
    await create_port(rig, "p")
    image = image_pb2.Image(spec=image_pb2.Image.Spec(format=image_pb2.Image.RAW, size_bytes=8))
    await rig.api.images.CreateImage(image_pb2.CreateImageRequest(parent=PROJECT, image_id="raw", image=image))
    before, usage = set(await rig.keys("")), await rig.usage()
    with pytest.raises(Error) as refused:
        await rig.api.create_server("web", **fields)
    assert (refused.value.reason, refused.value.field) == (reason, field)
    assert refused.value.fix
    assert not {key for key in set(await rig.keys("")) - before if "server" in key}
    assert await rig.usage() == usage


async def test_usage_never_drifts_over_creates_deletes_and_restarts_of_the_controller(site: Any) -> None:
    rng = random.Random(7)
    living: set[str] = set()
    async with site.running() as rig:
        await rig.furnish()
        idle = await rig.usage()
    for turn in range(3):
        async with site.running() as rig:
            for number in range(12):
                name = f"s{turn}-{number}"
                jobs: list[Any] = [rig.api.create_server(name, nics=[NET] * rng.randint(1, 3))]
                living.add(name)
                if len(living) > 3 and rng.random() < 0.6:
                    victim = rng.choice(sorted(living - {name}))
                    living.discard(victim)
                    jobs.append(rig.api.delete_server(victim))
                await asyncio.gather(*jobs)
        # The controller ends here, in the middle of whatever it was doing.
    async with site.running() as rig:
        for name in living:
            await rig.api.delete_server(name)
        await eventually(lambda: no_servers(rig))
        assert {kind: amount for kind, amount in (await rig.usage()).items() if amount} == idle
        assert await rig.keys("address/") == await rig.keys("mac/") == await rig.keys("owned/") == []


async def no_servers(rig: Rig) -> bool:
    return not (await rig.api.servers.ListServers(server_pb2.ListServersRequest(parent=PROJECT))).servers


async def test_a_create_whose_answer_was_lost_at_any_moment_is_done_once(rig: Rig) -> None:
    for number in range(12):
        request = server_request(f"s{number}", request_id=new_uid())
        try:
            # From "not even sent" to "answered": the deadline falls anywhere in between.
            await rig.api.servers.CreateServer(request, timeout=0.001 * 1.6**number)
        except Error as lost:
            assert lost.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
        made = await rig.api.servers.CreateServer(request)
        assert (await rig.api.servers.CreateServer(request)).uid == made.uid
    assert (await rig.usage())["servers"] == (await rig.usage())["ports"] == 12
    assert len(await rig.keys("address/")) == len(await rig.keys("mac/")) == 12
