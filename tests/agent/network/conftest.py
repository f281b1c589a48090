"""A host of the test's own, and a lab on it."""

from collections.abc import Iterator

import pytest

from tests.agent.network.lab import Lab, own_host


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab on a host that nobody else is on; the test runs on that host."""
    made = Lab()
    try:
        with own_host():
            yield made
    finally:
        made.remove()
