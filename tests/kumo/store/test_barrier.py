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
from kumo.store.changes import Changes, Committed, Witness
from kumo.store.client import Etcd, Patience
from kumo.store.commit import Committer
from kumo.store.errors import Unknown
from kumo.store.etcd import rpc_pb2 as pb
from kumo.store.group import GroupCommit
from kumo.store.keys import Keys
from kumo.store.record import Etags
from tests.etcd import Cluster

_PATIENCE = Patience(per_try_s=10.0, request_s=20.0)


class Slow(Etcd):
    """An etcd on a way that keeps the first `count` writes back until they are given up, and delivers them when asked to."""

    def __init__(self, addresses: list[str], count: int = 1) -> None:
        super().__init__(addresses, patience=_PATIENCE, rng=random.Random(1))
        self.kept: list[tuple[Any, ...]] = []
        self._left = count
        self.given_up = asyncio.Event()

    async def txn(
        self, compare: Sequence[pb.Compare] = (), success: Sequence[pb.RequestOp] = (), failure: Sequence[pb.RequestOp] = ()
    ) -> pb.TxnResponse:
        if self._left and len(success) > 0:
            self._left -= 1
            self.kept.append((list(compare), list(success), list(failure)))
            await self.given_up.wait()
            raise Unknown("nothing came back")
        return await super().txn(compare, success, failure)

    async def arrive(self) -> list[bool]:
        """Deliver what was kept back; say of each whether it took effect."""
        return [(await super(Slow, self).txn(*kept)).succeeded for kept in self.kept]


def committer(etcd: Etcd, keys: Keys, seed: int = 1) -> Committer:
    rng = random.Random(seed)
    return Committer(GroupCommit(etcd, Barrier(etcd, keys, rng)), SystemClock(), rng, Etags("i"))


def creation(key: bytes) -> Changes:
    changes = Changes()
    changes.require(ops.create_revision_is(key, 0), lambda _: KeyError(key))
    changes.put(key, b"made")
    changes.witness = Witness(key, 0, b"made")
    return changes


async def test_a_create_that_was_repeated_does_not_happen_again_after_the_delete(shared: Cluster) -> None:
    keys = Keys(f"/test/{new_uid()}")
    async with Slow(shared.addresses) as etcd:
        etcd.given_up.set()
        sender = committer(etcd, keys)
        assert isinstance(await sender.commit(creation(keys.raw("a"))), Committed)
        gone = Changes()
        gone.delete(keys.raw("a"))
        assert isinstance(await sender.commit(gone), Committed)
        assert await etcd.arrive() == [False]


async def test_a_write_that_was_given_up_does_not_happen_after_the_next_one(shared: Cluster) -> None:
    keys = Keys(f"/test/{new_uid()}")
    async with Slow(shared.addresses) as etcd:
        sender = committer(etcd, keys)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await sender.commit(creation(keys.raw("a")))
        assert len(etcd.kept) == 1
        following = asyncio.ensure_future(sender.commit(creation(keys.raw("b"))))
        etcd.given_up.set()
        assert isinstance(await following, Committed)
        assert await etcd.arrive() == [False]


async def test_the_barrier_itself_may_be_raised_late(shared: Cluster) -> None:
    keys = Keys(f"/test/{new_uid()}")
    async with Slow(shared.addresses, count=2) as etcd:
        etcd.given_up.set()
        sender = committer(etcd, keys)
        assert isinstance(await sender.commit(creation(keys.raw("a"))), Committed)
        assert await etcd.arrive() == [False, True]
        assert isinstance(await sender.commit(creation(keys.raw("b"))), Committed)


async def test_senders_that_share_a_barrier_do_not_stop_each_other(shared: Cluster) -> None:
    keys = Keys(f"/test/{new_uid()}")
    async with Slow(shared.addresses) as etcd, Etcd(shared.addresses, patience=_PATIENCE) as other:
        etcd.given_up.set()
        one, two = committer(etcd, keys), committer(other, keys)
        assert one.group.barrier.key == two.group.barrier.key
        for sender, name in ((two, "a"), (one, "b"), (two, "c"), (one, "d")):
            assert isinstance(await sender.commit(creation(keys.raw(name))), Committed)
