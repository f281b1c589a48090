"""One etcd member for all tests of the store that do not hurt it; each test has a prefix of its own.

There are two such members, the real one and the one in memory that simulations run on: each test has to pass with both.
"""

import random
from collections.abc import AsyncGenerator, Generator

import pytest

from kumo.ids import new_uid
from kumo.store.client import Etcd, Patience
from kumo.store.plane import Plane
from tests.etcd import Cluster, cluster
from tests.simulation.etcd_process import memory_cluster


@pytest.fixture(scope="session", params=["etcd", "memory"])
def shared(request: pytest.FixtureRequest) -> Generator[Cluster, None, None]:
    with cluster() if request.param == "etcd" else memory_cluster() as one:
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
