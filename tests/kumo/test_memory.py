"""A process at rest keeps what it needs and gives the rest back."""

import gc

from kumo.memory import settle


async def test_what_is_there_is_looked_at_no_more_and_what_comes_later_is() -> None:
    gc.unfreeze()
    try:
        await settle(0.0)
        assert gc.get_freeze_count() > 1000
        assert gc.isenabled()
    finally:
        gc.unfreeze()
