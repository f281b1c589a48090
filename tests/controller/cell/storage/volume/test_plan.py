"""The plan of a volume converges from any state of the world and rests there, and never removes what may be open."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.cell.storage.volume.plan import Ensure, Finish, Remove, Wait, World, plan

_WORLDS = st.builds(
    World,
    is_leaving=st.booleans(),
    is_made=st.booleans(),
    is_removed=st.booleans(),
    has_failed=st.booleans(),
    is_pool_known=st.booleans(),
    has_agent=st.booleans(),
    waits_for_image=st.booleans(),
    held_by=st.sampled_from([(), ("server",)]),
)


def after(world: World, step: object) -> World:
    match step:
        case Ensure():
            return replace(world, is_made=True)
        case Remove():
            return replace(world, is_removed=True)
        case Wait("IN_USE"):
            return replace(world, held_by=())
        case Wait("NO_STORAGE_AGENT"):
            return replace(world, has_agent=True)
        case Wait("POOL_UNKNOWN"):
            return replace(world, is_pool_known=True)
        case Wait("IMAGE_NOT_READY"):
            return replace(world, waits_for_image=False)
        case _:
            raise AssertionError(f"nothing follows {step}")


@given(_WORLDS)
def test_it_converges_and_rests(world: World) -> None:
    for _ in range(10):
        step = plan(world)
        if step is None or isinstance(step, Finish):
            assert isinstance(step, Finish) == world.is_leaving
            assert world.is_leaving or world.is_made or world.has_failed
            return
        world = after(world, step)
    raise AssertionError("it does not come to rest")


@given(_WORLDS)
def test_nothing_is_removed_that_a_server_may_have_open(world: World) -> None:
    if isinstance(plan(world), Remove):
        assert world.is_leaving and not world.held_by


@given(_WORLDS)
def test_it_ends_only_when_its_removal_was_confirmed(world: World) -> None:
    if isinstance(plan(world), Finish):
        assert world.is_removed
