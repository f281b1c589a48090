"""One etcd member for all tests of the store that do not hurt it; each test has a prefix of its own."""

import random
from collections.abc import AsyncGenerator, Generator

import pytest

from kumo.ids import new_uid
from kumo.store.client import Etcd, Patience
from kumo.store.plane import Plane
from tests.etcd import Cluster, cluster


@pytest.fixture(scope="session")
def shared() -> Generator[Cluster, None, None]:
    with cluster() as one:
        yield one


@pytest.fixture
async def etcd(shared: Cluster) -> AsyncGenerator[Etcd, None]:
    # Patient: how fast a busy machine answers is not what these tests are about.
    async with Etcd(shared.addresses, patience=Patience(per_try_s=10.0, request_s=20.0), rng=random.Random(1)) as client:
        yield client


@pytest.fixture
async def plane(etcd: Etcd) -> Plane:
    """A plane that nobody else has, not yet entered: a test makes its tables and then enters it."""
    return await Plane.open(etcd, f"/test/{new_uid()}", format_version=1)
