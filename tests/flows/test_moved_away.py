"""A host loses its cables and its power, and one of its servers is given to another host by force: booted again with every controller
and the store dead, it starts what is still its own, with its network, and nothing else, and no disk ever has two writers.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import rbd
from google.protobuf.json_format import ParseDict

from deploy import control
from deploy.hello import IMAGE
from kumo.api.agent.v1 import agent_pb2, agent_pb2_grpc, storage_pb2, storage_pb2_grpc
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp
from kumo.identity import Identity
from kumo.rpc.client import channel
from kumo.tls import TlsFiles
from storage.block.names import volume_name
from tests.flows.cloud import until
from tests.flows.hosts import Hosts

HOST, OTHER = "h2", "h1"
# Greater than any that the leader has used in its term.
SEQUENCE = 1 << 40
BOOT_S = 120.0


def held_epoch(hosts: Hosts, uid: str) -> Epoch:
    """Return the epoch under which the host was told to run a server."""
    (file,) = hosts.node(HOST).agent.rglob(f"servers/{uid}.state")
    return ApplyServerRequest.FromString(file.read_bytes().partition(b"\n")[2]).stamp.epoch


async def move_mark(hosts: Hosts, server: dict[str, Any], volume: dict[str, Any]) -> None:
    """Do what the cell's leader does first when it moves a server away by force: name the other host on its disk."""
    pool = ParseDict(hosts.json("pool", "show", volume["spec"]["pool"].rpartition("/")[2]), Pool(), ignore_unknown_fields=True)
    epoch = held_epoch(hosts, server["uid"])
    expected = storage_pb2.Owner(server_uid=server["uid"], host=HOST, epoch=epoch)
    owner = storage_pb2.Owner(server_uid=server["uid"], host=OTHER, epoch=Epoch(cell=epoch.cell, host=epoch.host + 1))
    tls = TlsFiles.in_folder(hosts.node("c1").controller / "tls", "cell").read()
    name = Identity("a", "local", "agent", OTHER).dns
    async with channel(hosts.agent(OTHER), tls, server_name=name) as dialled:
        agents: Any = agent_pb2_grpc.AgentsStub(dialled)
        term = (await agents.DescribeHost(agent_pb2.DescribeHostRequest())).host.term
        request = storage_pb2.SetOwnerRequest(
            stamp=Stamp(term=term, sequence=SEQUENCE, epoch=owner.epoch, generation=1),
            uid=volume["uid"],
            pool=storage_pb2.PoolReference(uid=pool.uid, driver="rbd", volume_pool=pool.spec.volume_pool, image_pool=pool.spec.image_pool),
            expected=expected,
            owner=owner,
        )
        storage: Any = storage_pb2_grpc.StorageStub(dialled)
        assert (await storage.SetOwner(request)).owner == owner


@contextmanager
def writing_elsewhere(hosts: Hosts, volume_uid: str) -> Iterator[str]:
    """Open a disk and hold its lock as its new owner's QEMU does, having broken the old one's; gives the new one's address."""
    with hosts.ceph() as cluster, cluster.open_ioctx("volumes") as io, rbd.Image(io, volume_name(volume_uid)) as image:
        for one in image.lock_get_owners():
            image.lock_break(rbd.RBD_LOCK_MODE_EXCLUSIVE, one["owner"])
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        image.write(b"the new owner was here", 0)
        (mine,) = [one["owner"] for one in image.lock_get_owners()]
        yield mine
        assert [one["owner"] for one in image.lock_get_owners()] == [mine], "somebody took its lock"
        assert image.read(0, 22) == b"the new owner was here"


def clients(hosts: Hosts, volume_uid: str) -> tuple[set[str], set[str]]:
    """Return who has a disk open for writing, and who holds its lock, by address."""
    with (
        hosts.ceph() as cluster,
        cluster.open_ioctx("volumes") as io,
        rbd.Image(io, volume_name(volume_uid), read_only=True) as image,
    ):
        locks = image.list_lockers()
        return {one["addr"] for one in image.watchers_list()}, {one[2] for one in (locks["lockers"] if locks else ())}


@contextmanager
def without_controllers(hosts: Hosts) -> Iterator[None]:
    """Stop every controller, and etcd."""
    stopped = [(name, service) for name in ("c1", "c2") for service in control.service_pids(hosts.node(name)) if "controller" in service]
    stopped.append(("c1", "etcd"))
    for name, service in stopped:
        hosts.stop(name, service)
    try:
        yield
    finally:
        for name, service in reversed(stopped):
            hosts.start(name, service)


def printed(hosts: Hosts, uid: str) -> str:
    """Return what the console of a server on the host has printed, in all its lives."""
    files = sorted(hosts.node(HOST).state.glob(f"libvirt/log/consoles/*{uid}*"))
    return "".join(file.read_text(errors="replace") for file in files)


def said_of(hosts: Hosts, uid: str) -> list[str]:
    """Return why the agent of the host did not start a server, each time it said so."""
    lines = (json.loads(line) for line in (hosts.node(HOST).log / "kumo-agent.log").read_text().splitlines() if uid in line)
    return [line["why"] for line in lines if line["event"] == "server not started: a disk is not its own"]


def runs(hosts: Hosts, uid: str) -> bool:
    return hosts.domains(HOST).get(uid, False)


def test_a_host_that_was_moved_away_from_starts_only_what_is_its_own_and_needs_no_controller_for_that(hosts: Hosts) -> None:
    with hosts.only_on(HOST):
        for name in ("kept", "moved"):
            hosts.kumo("server", "create", name, "--image", IMAGE, "--flavor", "tiny", "--network", "blue", "--no-wait")
        for name in ("kept", "moved"):
            hosts.kumo("server", "wait", name, "--for=ready", "--timeout", "120")
    kept, moved = hosts.server("kept"), hosts.server("moved")
    disks = {one["name"]: hosts.json("volume", "show", one["spec"]["root_volume"].rpartition("/")[2]) for one in (kept, moved)}
    kept_disk, moved_disk = disks[kept["name"]], disks[moved["name"]]
    ready = printed(hosts, kept["uid"]).count("@kt ready")
    hosts.cut(HOST)
    asyncio.run(move_mark(hosts, moved, moved_disk))
    hosts.power_off(HOST)
    with writing_elsewhere(hosts, moved_disk["uid"]) as new_owner, without_controllers(hosts):
        hosts.mend(HOST)
        hosts.boot(HOST)
        until(lambda: bool(said_of(hosts, moved["uid"])), "the agent says why it does not start what was moved away", BOOT_S)
        until(partial(runs, hosts, kept["uid"]), "what is still its own runs", BOOT_S)
        # With its address, its metadata, and all that the guest needs to call itself ready.
        until(lambda: printed(hosts, kept["uid"]).count("@kt ready") > ready, "its guest is ready", BOOT_S)
        last_life = printed(hosts, kept["uid"]).rpartition("@kt metadata")[2]
        assert f"id={kept['uid']}" in last_life.splitlines()[0]
        assert not runs(hosts, moved["uid"])
        assert f"on {OTHER} at epoch" in said_of(hosts, moved["uid"])[-1]
        assert clients(hosts, moved_disk["uid"]) == ({new_owner}, {new_owner})
        # The dead QEMU's watch is shown for half a minute; its lock went to the new one, of the same host.
        watchers, lockers = clients(hosts, kept_disk["uid"])
        assert len(lockers) == 1 and lockers <= watchers
        assert {address.rpartition(":")[0] for address in watchers} == {hosts.node(HOST).addresses.storage}
        # Nor does libvirt start anything by itself.
        flags = hosts.exec(HOST, "virsh", "list", "--all", "--autostart", "--name").split()
        assert flags == []
    until(partial(says_that_it_moved, hosts), "the cell says so too")
    hosts.kumo("server", "wait", "kept", "--for=ready", "--timeout", "60")
    assert not runs(hosts, moved["uid"])
    hosts.kumo("server", "delete", "kept", "moved", "--wait", "--timeout", "120")


def says_that_it_moved(hosts: Hosts) -> bool:
    shown = hosts.kumo("server", "show", "moved", "-o", "json", check=False)
    if shown.returncode != 0:
        return False
    conditions = json.loads(shown.stdout)["status"].get("conditions", [])
    return any(one["type"] in ("DiskOwned", "GoesOn") and one.get("status") == "FALSE" for one in conditions)
