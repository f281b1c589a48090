"""The plan of an attachment says when the disk is there, and ends only when the server let go."""

from itertools import product

from controller.cell.storage.attachment.plan import Finish, Wait, World, plan


def test_it_ends_exactly_when_it_shall_and_nobody_holds_it() -> None:
    for is_leaving, is_held, is_attached in product((False, True), repeat=3):
        step = plan(World(is_leaving, is_held, is_attached))
        assert isinstance(step, Finish) == (is_leaving and not is_held)
        assert (step is None) == (is_attached and not is_leaving)
        assert isinstance(step, Wait) == (is_held if is_leaving else not is_attached)
