"""The plan of a server converges from any state of the world and rests there, and keeps its promises on the way."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.cell.compute.server.plan import Disk, Finish, Mark, Place, Remove, RemoveStray, Tell, Wait, World, plan

_DISKS = st.lists(st.builds(Disk, volume_uid=st.uuids().map(str), is_ready=st.booleans(), is_marked=st.booleans()), max_size=3).map(tuple)
_WORLDS = st.builds(
    World,
    is_leaving=st.booleans(),
    is_placed=st.booleans(),
    is_host_ready=st.booleans(),
    was_told=st.booleans(),
    is_absent=st.booleans(),
    missing=st.sampled_from([(), ("volume",)]),
    disks=_DISKS,
    strays=st.sampled_from([(), ("h2",), ("h2", "h3")]),
    left=st.sampled_from([(), ("port",)]),
)


def after(world: World, step: object) -> World:
    """Return the world after a step succeeded, or after what it waits for happened."""
    match step:
        case Place():
            return replace(world, is_placed=True, was_told=False, is_absent=False)
        case Mark(uids):
            return replace(world, disks=tuple(replace(disk, is_marked=disk.is_marked or disk.volume_uid in uids) for disk in world.disks))
        case Tell() | Remove():
            return replace(world, was_told=True, is_absent=world.is_leaving)
        case RemoveStray(host_uid):
            return replace(world, strays=tuple(stray for stray in world.strays if stray != host_uid))
        case Wait("HOST_SILENT"):
            return replace(world, is_host_ready=True, was_told=False)
        case Wait("PARTS_MISSING"):
            return replace(world, missing=())
        case Wait("DISK_NOT_READY"):
            return replace(world, disks=tuple(replace(disk, is_ready=True) for disk in world.disks))
        case Wait("REMOVING"):
            return replace(world, is_absent=True)
        case Wait("PARTS_LEFT"):
            return replace(world, left=())
        case _:
            raise AssertionError(f"nothing follows {step}")


@given(_WORLDS)
def test_it_converges_and_rests(world: World) -> None:
    for _ in range(20):
        step = plan(world)
        if step is None or isinstance(step, Finish):
            assert plan(world) == step
            assert isinstance(step, Finish) == world.is_leaving
            return
        world = after(world, step)
    raise AssertionError("it does not come to rest")


@given(_WORLDS)
def test_a_server_ends_only_when_nothing_of_it_is_left_anywhere(world: World) -> None:
    if isinstance(plan(world), Finish):
        assert world.is_leaving and not world.left and not world.strays
        assert not world.is_placed or (world.is_host_ready and world.was_told and world.is_absent)


@given(_WORLDS)
def test_a_host_is_told_of_a_server_only_when_its_disks_are_ready_and_its_own(world: World) -> None:
    if isinstance(plan(world), Tell):
        assert world.is_placed and all(disk.is_ready and disk.is_marked for disk in world.disks)
        assert not world.strays, "it may run elsewhere"


@given(_WORLDS)
def test_what_shall_go_is_neither_placed_nor_started(world: World) -> None:
    if world.is_leaving:
        assert not isinstance(plan(world), Place | Mark | Tell)
