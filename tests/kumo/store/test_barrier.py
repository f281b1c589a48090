"""What was sent and given up takes no effect later, whatever it finds."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from kumo.clock import SystemClock
from kumo.ids import new_uid
from kumo.store import ops
from kumo.store.barrier import Barrier
from kumo.store.client import Etcd, Patience
from kumo.store.commit import Changes, Committed, Committer, Witness
from kumo.store.errors import Unknown
from kumo.store.etcd import rpc_pb2 as pb
from kumo.store.keys import Keys
from kumo.store.record import Etags
from tests.etcd import Cluster

_PATIENCE = Patience(per_try_s=10.0, request_s=20.0)


class Slow(Etcd):
    """An etcd on a way that keeps the first `count` writes back, and delivers them when asked to."""

    def __init__(self, addresses: list[str], count: int = 1, *, is_cancelled: bool = False) -> None:
        super().__init__(addresses, patience=_PATIENCE, rng=random.Random(1))
        self.kept: list[tuple[Any, ...]] = []
        self._left, self._is_cancelled = count, is_cancelled

    async def txn(
        self, compare: Sequence[pb.Compare] = (), success: Sequence[pb.RequestOp] = (), failure: Sequence[pb.RequestOp] = ()
    ) -> pb.TxnResponse:
        if self._left and len(success) > 0:
            self._left -= 1
            self.kept.append((list(compare), list(success), list(failure)))
            if self._is_cancelled:
                raise asyncio.CancelledError
            raise Unknown("nothing came back")
        return await super().txn(compare, success, failure)

    async def arrive(self) -> list[bool]:
        """Deliver what was kept back; say of each whether it took effect."""
        return [(await super(Slow, self).txn(*kept)).succeeded for kept in self.kept]


def committer(etcd: Etcd, keys: Keys, seed: int = 1) -> Committer:
    rng = random.Random(seed)
    return Committer(etcd, SystemClock(), rng, Etags("i"), Barrier(etcd, keys, rng))


def creation(key: bytes) -> Changes:
    changes = Changes()
    changes.require(ops.create_revision_is(key, 0), lambda _: KeyError(key))
    changes.put(key, b"made")
    changes.witness = Witness(key, 0, b"made")
    return changes


async def test_a_create_that_was_repeated_does_not_happen_again_after_the_delete(shared: Cluster) -> None:
    keys = Keys(f"/test/{new_uid()}")
    async with Slow(shared.addresses) as etcd:
        sender = committer(etcd, keys)
        assert isinstance(await sender.commit(creation(keys.raw("a"))), Committed)
        gone = Changes()
        gone.delete(keys.raw("a"))
        assert isinstance(await sender.commit(gone), Committed)
        assert await etcd.arrive() == [False]


async def test_a_write_that_was_given_up_does_not_happen_after_the_next_one(shared: Cluster) -> None:
    keys = Keys(f"/test/{new_uid()}")
    async with Slow(shared.addresses, is_cancelled=True) as etcd:
        sender = committer(etcd, keys)
        with pytest.raises(asyncio.CancelledError):
            await sender.commit(creation(keys.raw("a")))
        assert isinstance(await sender.commit(creation(keys.raw("b"))), Committed)
        assert await etcd.arrive() == [False]


async def test_the_barrier_itself_may_be_raised_late(shared: Cluster) -> None:
    keys = Keys(f"/test/{new_uid()}")
    async with Slow(shared.addresses, count=2) as etcd:
        sender = committer(etcd, keys)
        assert isinstance(await sender.commit(creation(keys.raw("a"))), Committed)
        assert await etcd.arrive() == [False, True]
        assert isinstance(await sender.commit(creation(keys.raw("b"))), Committed)


async def test_senders_that_share_a_barrier_do_not_stop_each_other(shared: Cluster) -> None:
    keys = Keys(f"/test/{new_uid()}")
    async with Slow(shared.addresses) as etcd, Etcd(shared.addresses, patience=_PATIENCE) as other:
        one, two = committer(etcd, keys), committer(other, keys)
        assert one.barrier.key == two.barrier.key
        for sender, name in ((two, "a"), (one, "b"), (two, "c"), (one, "d")):
            assert isinstance(await sender.commit(creation(keys.raw(name))), Committed)
