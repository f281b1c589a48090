"""Keeps what was sent and given up from taking effect later: a request may be under way long after its sender forgot it.

Guards of records do not suffice: a create that arrives after its record came and went finds nothing there, as it wants it.
"""

import asyncio
import random

from kumo.store import ops
from kumo.store.etcd import rpc_pb2 as pb
from kumo.store.interface import EtcdClient
from kumo.store.keys import Keys

# Senders that share a key only make each other send once more, so that a few keys are enough for whoever comes and goes.
_SLOTS = 64


class Barrier:
    """A key whose revision all writes of one sender compare; once it is raised, those that were sent before are refused for ever."""

    def __init__(self, etcd: EtcdClient, keys: Keys, rng: random.Random) -> None:
        self.key = keys.raw(f"barrier/{rng.randrange(_SLOTS)}")
        self._etcd = etcd
        self._revision = 0
        self._is_in_doubt = False
        self._raising = asyncio.Lock()

    def compare(self) -> pb.Compare:
        return ops.mod_revision_is(self.key, self._revision)

    def learn(self, revision: int) -> None:
        """Take it from a refusal that somebody raised it."""
        self._revision = revision

    def doubt(self) -> None:
        """Have the barrier raised before anything else is sent: nobody knows what became of the last write."""
        self._is_in_doubt = True

    async def settle(self) -> None:
        """Return once nothing that was given up can take effect any more. Raises Unknown, StoreUnreachable."""
        if not self._is_in_doubt:
            return
        async with self._raising:
            if not self._is_in_doubt:
                return
            # Without a guard: what is known of its revision may be older than what the lost write was sent with.
            self._revision = (await self._etcd.txn(success=[ops.put(self.key, b"")])).header.revision
            self._is_in_doubt = False
