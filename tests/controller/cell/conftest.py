"""One etcd member for all tests of the cell; each test has a cell of its own in it."""

from collections.abc import Generator
from pathlib import Path

import pytest

from kumo.ids import new_uid
from tests.controller.cell.world import CELL, Cloud, Region
from tests.etcd import Cluster, cluster, free_ports
from tests.pki import Pki


@pytest.fixture(scope="session")
def etcd_cluster() -> Generator[Cluster, None, None]:
    with cluster() as one:
        yield one


@pytest.fixture
def cloud(etcd_cluster: Cluster, pki: Pki, tmp_path: Path) -> Cloud:
    port = free_ports(1)[0]
    region = Region(f"127.0.0.1:{port}", pki.files("region", "controller", "h1"))
    return Cloud(pki, tmp_path, etcd_cluster.addresses, f"/kumo/cell/{CELL}-{new_uid()}", port, region)
