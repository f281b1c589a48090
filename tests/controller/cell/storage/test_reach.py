"""A pool that one host has: its images, its volumes and the servers on them are that host's, whatever others have free."""

from pathlib import Path

from kumo.api.cell.v1.cell_pb2 import Verdict
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.ids import new_uid
from kumo.pool_verbs import ALL_VERBS, Verb
from tests.controller.cell.images import upload
from tests.controller.cell.up import Up, up
from tests.controller.cell.world import Bundle, Cloud, bundle


async def files_on(world: Up, host: str) -> Bundle:
    """Make a pool in a directory of one host, with an image in it; what is made from the bundle lies there."""
    made = bundle("files", base=world.base)
    made.pool = Pool(name="pools/files", uid=new_uid(), generation=1, spec=Pool.Spec(driver=Pool.FILE, cells=["a"], hosts=[host]))
    made.image = Image(
        name="projects/default/images/other",
        uid=new_uid(),
        generation=1,
        spec=Image.Spec(format=Image.RAW, size_bytes=1 << 20, pool=made.pool.name, pool_uid=made.pool.uid),
    )
    await world.region.push_shared(made)
    await world.region.until(lambda: world.region.fact(made.image.uid).HasField("image"), "the image is known")
    await upload(world.region, made.image)
    await world.region.until(lambda: world.region.fact(made.image.uid).image.status.state == Image.ACTIVE, "image is ACTIVE")
    return made


def disks(world: Up, host: str) -> list[Path]:
    return list(world.agents[host].state.glob("files/*/volumes/*/disk"))


async def test_servers_go_to_the_host_that_has_their_disks_and_nothing_of_them_elsewhere(cloud: Cloud) -> None:
    async with up(cloud, "h1", "h2", "h3") as world:
        region, files = world.region, await files_on(world, "h2")
        verbs = list(region.fact(files.pool.uid).pool.status.verbs)
        assert verbs == sorted(ALL_VERBS - {Verb.SHARE})
        servers = [bundle(f"s{number}", base=files, number=number) for number in (2, 3, 4)]
        for wanted in servers:
            await region.push(wanted)
        for wanted in servers:
            await region.until_state(wanted.server.uid, Server.ACTIVE)
            assert region.server(wanted.server.uid).status.host == "hosts/h2"
        assert (len(disks(world, "h2")), disks(world, "h1"), disks(world, "h3")) == (3, [], [])
        for wanted in servers:
            await region.delete(wanted)
        await region.until(lambda: {wanted.server.uid for wanted in servers} <= set(region.ended), "all ended")
        assert disks(world, "h2") == []


async def test_a_server_waits_and_says_why_while_the_one_host_with_its_disk_takes_none(cloud: Cloud) -> None:
    async with up(cloud, "h1", "h2") as world:
        region, files = world.region, await files_on(world, "h2")
        cordoned = await region.cordon(world.hosts["h2"], cordoned=True)
        wanted = bundle("s", base=files, number=2)
        await region.push(wanted)
        await region.until(lambda: region.fact(wanted.server.uid).verdict.answer == Verdict.WAITING, "it waits")
        because = region.fact(wanted.server.uid).verdict.because
        assert "1 do not reach the pool of its disk (POOL_OUT_OF_REACH)" in because.operator_message
        assert "h2" not in because.message + because.fix
        await region.cordon(cordoned, cordoned=False)
        await region.until_state(wanted.server.uid, Server.ACTIVE)
        assert region.server(wanted.server.uid).status.host == "hosts/h2"
