"""A server from its order to its end, its verbs and its waits, through a real store and an agent's own code."""

import json

from kumo.api.cell.v1.cell_pb2 import Verdict
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.condition_pb2 import Condition
from tests.controller.cell.up import up
from tests.controller.cell.world import Cloud, bundle


def condition(server: Server, kind: str) -> Condition:
    return next((one for one in server.status.conditions if one.type == kind), Condition())


async def test_a_server_is_placed_made_and_started_and_all_of_it_is_reported(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        region, wanted = world.region, bundle(base=world.base)
        await region.push(wanted)
        await region.until_state(wanted.server.uid, Server.ACTIVE)
        status = region.server(wanted.server.uid).status
        assert (status.host, status.cell_epoch, status.host_epoch) == ("hosts/h1", 1, 1)
        assert [(one.port, one.address, one.mac) for one in status.addresses] == [(wanted.port.name, "10.0.0.10", "02:6b:00:00:00:01")]
        assert region.fact(wanted.server.uid).verdict.answer == Verdict.PLACED
        await region.until(lambda: region.fact(wanted.port.uid).port.status.state == Port.ACTIVE, "port is ACTIVE")
        await region.until(lambda: region.fact(wanted.volume.uid).volume.status.state == Volume.IN_USE, "volume is IN_USE")
        await region.until(lambda: region.fact(wanted.attachment.uid).attachment.status.state == Attachment.ATTACHED, "attached")
        await region.until(lambda: condition(region.server(wanted.server.uid), "PortsReady").status == Condition.TRUE, "ports are ready")
        for kind in ("Placed", "DiskReady", "Started"):
            assert condition(region.server(wanted.server.uid), kind).status == Condition.TRUE, kind
        told = {event.reason: event.subject for event in region.events}
        assert told["PLACED"] == told["STARTED"] == wanted.server.name
        host = world.hosts["h1"].uid
        await region.until(lambda: region.host(host).status.server_count == 1, "the host counts the server")
        assert region.host(host).status.claimed_vcpus == 1


async def test_children_may_arrive_before_and_after_their_server(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        region = world.region
        for number, order in enumerate((("server", "port", "attachment", "volume"), ("volume", "attachment", "port", "server")), start=2):
            wanted = bundle(f"s{number}", base=world.base, number=number)
            await region.push_owned(wanted, kinds=order)
            await region.until_state(wanted.server.uid, Server.ACTIVE)


async def test_stop_start_and_reboot_are_done_once_and_reported(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        region, wanted = world.region, bundle(base=world.base)
        server = wanted.server
        await region.push(wanted)
        await region.until_state(server.uid, Server.ACTIVE)

        async def change(**spec: object) -> None:
            server.generation += 1
            for name, value in spec.items():
                setattr(server.spec, name, value)
            await region.apply("server", server, project_uid="p1")

        await change(power=Server.OFF, hard=True)
        await region.until_state(server.uid, Server.STOPPED)
        await change(power=Server.RUNNING)
        await region.until_state(server.uid, Server.ACTIVE)
        before = region.server(server.uid).status.start_time.ToNanoseconds()
        await change(reboots=1, hard=True)
        await region.until(
            lambda: region.server(server.uid).status.reboots == 1 and region.server(server.uid).status.state == Server.ACTIVE, "rebooted"
        )
        assert region.server(server.uid).status.start_time.ToNanoseconds() > before
        assert region.server(server.uid).status.observed_generation == server.generation
        assert [event.reason for event in region.events if event.reason in ("STOPPED",)] == ["STOPPED"]


async def test_a_server_without_room_waits_says_why_and_is_placed_when_room_appears(cloud: Cloud) -> None:
    async with up(cloud, "h1", memory_mib=1024) as world:
        region = world.region
        first = bundle("first", memory_mib=600, base=world.base, number=2)
        second = bundle("second", memory_mib=500, base=world.base, number=3)
        await region.push(first)
        await region.until_state(first.server.uid, Server.ACTIVE)
        await region.push(second)
        uid = second.server.uid
        await region.until(lambda: region.fact(uid).verdict.answer == Verdict.WAITING, "it waits")
        because = region.fact(uid).verdict.because
        assert because.reason == "NO_ROOM"
        assert "500 MiB" in because.message and "h1" not in because.message
        assert "1 have too little memory free (NO_MEMORY)" in because.operator_message and "h1" in because.operator_message
        assert "168 MiB" in because.fix
        await region.until(lambda: condition(region.server(uid), "Placed").reason == "NO_ROOM", "its condition says so")
        assert region.server(uid).status.state == Server.CREATING
        await region.delete(first)
        await region.until_state(uid, Server.ACTIVE)
        assert [event.reason for event in region.events if event.subject_uid == uid][:2] == ["WAITING", "PLACED"]


async def test_a_waiting_server_can_be_withdrawn_and_given_again(cloud: Cloud) -> None:
    async with up(cloud, "h1", memory_mib=1024) as world:
        region, wanted = world.region, bundle(memory_mib=5000, base=world.base)
        await region.push(wanted)
        uid = wanted.server.uid
        await region.until(lambda: region.fact(uid).verdict.answer == Verdict.WAITING, "it waits")
        for kind, thing in wanted.owned():
            await region.apply(kind, thing, withdrawn=True)
        await region.until(lambda: region.fact(uid).verdict.answer == Verdict.WITHDRAWN, "it is withdrawn")
        await region.until(lambda: region.fact(wanted.volume.uid).verdict.answer == Verdict.WITHDRAWN, "so is its volume")
        assert region.fact(uid).verdict.cell_epoch == 1
        assert not [key for key in await cloud.keys() if uid in key or wanted.volume.uid in key]
        wanted.server.spec.memory_mib = 64
        wanted.server.generation += 1
        await region.push(wanted, epoch=2)
        await region.until_state(uid, Server.ACTIVE)
        assert region.server(uid).status.cell_epoch == 2


async def test_two_hosts_share_a_network_and_know_of_each_others_ports(cloud: Cloud) -> None:
    async with up(cloud, "h1", "h2") as world:
        region = world.region
        servers = [bundle(f"s{number}", vcpus=40, base=world.base, number=number) for number in (2, 3)]
        for wanted in servers:
            await region.push(wanted)
        for wanted in servers:
            await region.until_state(wanted.server.uid, Server.ACTIVE)
        assert {region.server(wanted.server.uid).status.host for wanted in servers} == {"hosts/h1", "hosts/h2"}
        by_host = {region.server(wanted.server.uid).status.host.removeprefix("hosts/"): wanted for wanted in servers}

        def remotes(name: str) -> list[str]:
            network = json.loads((world.agents[name].state / "network.json").read_text())
            return [str(part) for part in (network,)]

        assert by_host["h2"].port.spec.mac in remotes("h1")[0]
        assert by_host["h1"].port.spec.mac in remotes("h2")[0]
        for wanted in servers:
            await region.delete(wanted)
        await region.until(lambda: {wanted.server.uid for wanted in servers} <= set(region.ended), "both ended")


async def test_a_cordoned_host_gets_no_server_until_it_is_opened(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        region, wanted = world.region, bundle(base=world.base)
        await region.cordon(world.hosts["h1"], cordoned=True)
        await region.push(wanted)
        await region.until(lambda: region.fact(wanted.server.uid).verdict.answer == Verdict.WAITING, "it waits")
        assert "HOST_CORDONED" in region.fact(wanted.server.uid).verdict.because.operator_message
        await region.cordon(world.hosts["h1"], cordoned=False)
        await region.until_state(wanted.server.uid, Server.ACTIVE)


async def test_a_free_standing_volume_is_made_and_removed(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        region, pool = world.region, world.base.pool
        volume = Volume(name="projects/default/volumes/v", uid=world.base.volume.uid, generation=1)
        volume.spec.CopyFrom(Volume.Spec(size_gib=1, pool=pool.name, pool_uid=pool.uid))
        await region.apply("volume", volume)
        await region.until(lambda: region.fact(volume.uid).volume.status.state == Volume.AVAILABLE, "it is AVAILABLE")
        volume.generation = 2
        volume.delete_time.GetCurrentTime()
        await region.apply("volume", volume)
        await region.until(lambda: volume.uid in region.ended, "it is gone")
        assert not list((world.agents["h1"].state / "volumes").glob(f"*/volumes/*{volume.uid}*"))
