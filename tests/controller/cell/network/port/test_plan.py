"""The plan of a port converges from any state of the world and rests there, and leaves a running server its rules."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.cell.network.port.plan import Finish, Remove, Tell, Wait, World, plan

_WORLDS = st.builds(
    World,
    is_leaving=st.booleans(),
    host_uid=st.sampled_from(["", "h1"]),
    is_host_ready=st.booleans(),
    has_parts=st.booleans(),
    was_told=st.booleans(),
    is_bound=st.booleans(),
    server_may_run=st.booleans(),
    strays=st.sampled_from([(), ("h2",), ("h2", "h3")]),
).filter(lambda world: not world.is_leaving or not world.host_uid)


def after(world: World, step: object) -> World:
    match step:
        case Tell():
            return replace(world, was_told=True, is_bound=True)
        case Remove(host_uid):
            return replace(world, strays=tuple(stray for stray in world.strays if stray != host_uid))
        case Wait("IN_USE"):
            return replace(world, server_may_run=False)
        case Wait("PARTS_MISSING"):
            return replace(world, has_parts=True)
        case Wait("HOST_SILENT"):
            return replace(world, is_host_ready=True)
        case Wait("BINDING"):
            return replace(world, is_bound=True)
        case _:
            raise AssertionError(f"nothing follows {step}")


@given(_WORLDS)
def test_it_converges_and_rests(world: World) -> None:
    for _ in range(12):
        step = plan(world)
        if step is None or isinstance(step, Finish):
            assert isinstance(step, Finish) == world.is_leaving
            if world.host_uid:
                assert world.is_bound and not world.strays
            return
        world = after(world, step)
    raise AssertionError("it does not come to rest")


@given(_WORLDS)
def test_rules_stay_while_a_server_that_goes_may_still_run(world: World) -> None:
    if world.server_may_run and not world.host_uid:
        assert not isinstance(plan(world), Remove | Finish)


@given(_WORLDS)
def test_it_ends_only_when_no_host_has_anything_of_it(world: World) -> None:
    if isinstance(plan(world), Finish):
        assert world.is_leaving and not world.strays
