"""The plan of a network converges from any state of the world and rests there, and writes down each host before it is told."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.cell.network.network.plan import Finish, Record, Remove, Tell, Wait, World, plan

_HOSTS = st.frozensets(st.sampled_from(["h1", "h2", "h3"]))
_WORLDS = st.builds(World, is_leaving=st.booleans(), wanted=_HOSTS, carrying=_HOSTS, told=_HOSTS, ready=_HOSTS, with_ports=_HOSTS).filter(
    lambda world: not world.is_leaving or not world.wanted
)


def after(world: World, step: object) -> World:
    match step:
        case Record(host_uids):
            return replace(world, carrying=host_uids)
        case Tell(host_uids):
            return replace(world, told=world.told | host_uids)
        case Remove(host_uids):
            return replace(world, carrying=world.carrying - host_uids, told=world.told - host_uids)
        case Wait("HOST_SILENT", host_uids):
            return replace(world, ready=world.ready | host_uids)
        case Wait("IN_USE"):
            return replace(world, with_ports=frozenset(), ready=frozenset(["h1", "h2", "h3"]))
        case _:
            raise AssertionError(f"nothing follows {step}")


@given(_WORLDS)
def test_it_converges_and_rests(world: World) -> None:
    for _ in range(12):
        step = plan(world)
        if step is None or isinstance(step, Finish):
            assert isinstance(step, Finish) == world.is_leaving
            assert world.wanted <= world.carrying
            assert world.wanted <= world.told
            return
        world = after(world, step)
    raise AssertionError("it does not come to rest")


@given(_WORLDS)
def test_no_host_is_told_before_it_is_written_down(world: World) -> None:
    step = plan(world)
    if isinstance(step, Tell):
        assert step.host_uids <= world.carrying & world.wanted & world.ready


@given(_WORLDS)
def test_it_leaves_a_host_only_after_the_last_port(world: World) -> None:
    step = plan(world)
    if isinstance(step, Remove):
        assert not step.host_uids & (world.wanted | world.with_ports)
    if isinstance(step, Finish):
        assert not world.carrying
