"""A pool ends only when nothing lies in it."""

from controller.cell.fleet.pool.plan import Describe, Finish, Wait, World, plan


def test_a_pool_ends_only_when_nothing_lies_in_it() -> None:
    assert plan(World(is_leaving=True)) == Finish()
    assert plan(World(is_leaving=True, used_by=("volume",))) == Wait("IN_USE", ("volume",))


def test_a_pool_that_stays_is_asked_how_full_it_is() -> None:
    assert plan(World()) == Describe()
    assert plan(World(is_described=True)) is None
