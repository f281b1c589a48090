"""A plane does not begin on an etcd that would refuse it later."""

from collections.abc import Iterator

import pytest

from controller.store_version import OLDEST, require_supported
from kumo.errors import FailedPrecondition
from kumo.store.client import Etcd
from tests.etcd import Cluster, cluster


@pytest.fixture(scope="module")
def store() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


class Old(Etcd):
    """Says that it is of another version."""

    async def connect(self) -> str:
        await super().connect()
        return "3.4.23"


async def test_an_etcd_as_kumo_starts_it_will_do(store: Cluster) -> None:
    async with Etcd(store.addresses) as etcd:
        await require_supported(etcd, lab=True)


async def test_an_etcd_that_takes_less_at_once_is_refused_with_what_to_set() -> None:
    with cluster(extra=["--max-txn-ops=128"]) as small:
        async with Etcd(small.addresses) as etcd:
            with pytest.raises(FailedPrecondition, match="STORE_TXN_SMALL") as caught:
                await require_supported(etcd, lab=True)
            assert "--max-txn-ops=1024" in caught.value.fix


async def test_an_old_etcd_is_refused_but_in_a_lab(store: Cluster) -> None:
    async with Old(store.addresses) as etcd:
        with pytest.raises(FailedPrecondition, match="ETCD_TOO_OLD") as caught:
            await require_supported(etcd, lab=False)
        assert ".".join(map(str, OLDEST)) in caught.value.fix
        await require_supported(etcd, lab=True)
