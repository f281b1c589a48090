"""The plan of an image converges from any state of the world and rests there."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.cell.image.image.plan import Finish, Import, Look, Remove, Wait, World, plan
from kumo.api.agent.v1.storage_pb2 import ImageFacts

_SIZE = 100
_FACTS = st.one_of(
    st.none(),
    st.builds(
        lambda stage, received: ImageFacts(stage=stage, received_bytes=received),
        st.sampled_from(list(ImageFacts.Stage.values())),
        st.sampled_from([0, 50, _SIZE]),
    ),
)
_WORLDS = st.builds(
    World,
    size_bytes=st.just(_SIZE),
    is_leaving=st.booleans(),
    is_pool_known=st.booleans(),
    is_settled=st.booleans(),
    is_staged=st.booleans(),
    is_removed=st.booleans(),
    facts=_FACTS,
)


def after(world: World, step: object) -> World:
    match step:
        case Look():
            return replace(world, facts=ImageFacts(stage=ImageFacts.STAGED, received_bytes=50))
        case Import():
            return replace(world, facts=ImageFacts(stage=ImageFacts.IMPORTING))
        case Remove():
            return replace(world, is_removed=True)
        case Wait("POOL_UNKNOWN"):
            return replace(world, is_pool_known=True)
        case Wait("NO_BYTES"):
            return replace(world, is_staged=True)
        case Wait("BYTES_MISSING"):
            return replace(world, facts=ImageFacts(stage=ImageFacts.STAGED, received_bytes=_SIZE))
        case Wait("IMPORTING"):
            return replace(world, facts=ImageFacts(stage=ImageFacts.IMPORTED))
        case _:
            raise AssertionError(f"nothing follows {step}")


@given(_WORLDS)
def test_it_converges_and_rests(world: World) -> None:
    for _ in range(12):
        step = plan(world)
        if step is None or isinstance(step, Finish):
            assert isinstance(step, Finish) == world.is_leaving
            return
        world = after(world, step)
    raise AssertionError("it does not come to rest")


@given(_WORLDS)
def test_nothing_is_imported_before_all_bytes_are_there(world: World) -> None:
    if isinstance(plan(world), Import):
        assert world.facts is not None and world.facts.received_bytes >= world.size_bytes
