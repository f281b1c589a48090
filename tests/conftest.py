"""Fixtures that tests of every part share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.ceph import Ceph, running_ceph
from tests.pki import Pki

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("kumo", deadline=None)
settings.load_profile("kumo")


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    with running_ceph() as running:
        yield running
