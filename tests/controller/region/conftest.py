"""One etcd for all tests of the region; each test has a region of its own in it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kumo.ids import new_uid
from tests.controller.region.cell_double import CellDouble
from tests.controller.region.region_process import Rig, Site, cell_listening
from tests.etcd import Cluster, cluster
from tests.pki import Pki


@pytest.fixture(scope="session")
def region_store() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
async def site(region_store: Cluster, tmp_path: Path) -> AsyncIterator[Site]:
    pki = Pki(tmp_path, region=f"r{new_uid()[-12:]}")
    cell = CellDouble()
    async with cell_listening(pki, cell) as address:
        yield Site(pki, region_store.addresses, tmp_path, cell, address)


@pytest.fixture
async def rig(site: Site) -> AsyncIterator[Rig]:
    """A region in which servers can be made."""
    async with site.running() as running:
        await running.furnish()
        yield running
