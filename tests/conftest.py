"""Fixtures that tests of every part share."""

from collections.abc import Iterator

import pytest

from tests.ceph import Ceph, running_ceph
from tests.pki import Pki


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    with running_ceph() as running:
        yield running
