"""Elects one leader of a plane by a key that lives with a lease. The term it gives out fences every write of the leader.

No clock is compared with another machine's: the leader stops by its own clock, and the store refuses it by the key.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kumo.clock import Clock
from kumo.errors import Unavailable
from kumo.log import get_logger
from kumo.store import ops
from kumo.store.errors import Compacted, Deposed
from kumo.store.etcd import kv_pb2
from kumo.store.interface import EtcdClient, Lease, Watch
from kumo.store.term import Term

log = get_logger(__name__)

_TTL_S = 4
_RETRY_S = (0.1, 0.4)

Leading = Callable[[Term], Awaitable[None]]


@dataclass(frozen=True)
class Leader:
    """Who leads, as last seen: the address it gave, and its term."""

    address: str
    term: Term


class Election:
    """One candidate. `leader` is what this process last saw, its own lead included."""

    def __init__(
        self,
        etcd: EtcdClient,
        key: bytes,
        incarnation: str,
        *,
        caught_up: Callable[[int], Awaitable[None]],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`caught_up` waits until this process has read all that was written before a revision."""
        self._etcd, self._key, self._incarnation = etcd, key, incarnation
        self._caught_up, self._clock, self._rng = caught_up, clock, rng
        self._lease: Lease | None = None
        self._term: Term | None = None
        self._is_first_campaign = True
        self.leader: Leader | None = None
        self.lost = asyncio.Event()
        self.lost.set()

    @property
    def term(self) -> Term | None:
        """The term in which this process leads, or None."""
        return self._term if self.is_leading else None

    @property
    def is_leading(self) -> bool:
        return self._term is not None and self._lease is not None and self._lease.is_held()

    async def run(self, address: str, leading: Leading, *, ttl_s: int = _TTL_S) -> None:
        """Campaign, call `leading` with the term and cancel it when the term ends, and begin again; returns when `leading` does.

        `address` is what others are told to ask instead, and where this process listens already: whoever led from there has ended,
        so that a process that is started again need not wait until the lease of the one before runs out.
        When cancelled, it gives the lead up at once.
        """
        while True:
            try:
                lease = await self._etcd.lease(ttl_s)
            except Unavailable as error:
                log.warning("election cannot get a lease", reason=error.reason, why=error.message)
                await self._clock.sleep(self._rng.uniform(*_RETRY_S))
                continue
            try:
                if await self._hold(lease, address, leading):
                    return
            except Unavailable as error:
                log.warning("election interrupted", reason=error.reason, why=error.message)
            finally:
                self._term = self._lease = None
                self.lost.set()
                await lease.revoke()
            await self._clock.sleep(self._rng.uniform(*_RETRY_S))

    async def _hold(self, lease: Lease, address: str, leading: Leading) -> bool:
        """Campaign and lead with one lease; True when `leading` returned by itself."""
        term = await self._campaign(lease, address)
        if term is None:
            return False
        # A leader that decides by what an earlier one had not yet written would be wrong.
        await self._caught_up(term.create_revision)
        self._lease, self._term = lease, term
        self.lost.clear()
        log.info("leading", term=str(term))
        is_done = False
        try:
            is_done = await self._lead(lease, term, leading)
        except* (Deposed, Unavailable) as errors:
            log.warning("leader gives up", term=str(term), why=[str(error) for error in errors.exceptions])
        finally:
            log.info("leading no more", term=str(term))
        return is_done

    async def _lead(self, lease: Lease, term: Term, leading: Leading) -> bool:
        async def work() -> None:
            await leading(term)

        async with asyncio.TaskGroup() as tasks:
            working, lost = tasks.create_task(work()), tasks.create_task(lease.lost.wait())
            await asyncio.wait((working, lost), return_when=asyncio.FIRST_COMPLETED)
            is_done = working.done()
            working.cancel()
            lost.cancel()
        return is_done

    async def _campaign(self, lease: Lease, address: str) -> Term | None:
        """Return the term once the key is ours; None when the lease is gone."""
        while lease.is_held():
            write = ops.put(self._key, address.encode(), lease.id)
            answer = await self._etcd.txn([ops.create_revision_is(self._key, 0)], [write], [ops.get(self._key)])
            if answer.succeeded:
                return self._won(address, answer.header.revision)
            found = answer.responses[0].response_range.kvs[0]
            if found.lease == lease.id:
                # It was ours already: the answer to an earlier try was lost.
                return self._won(address, found.create_revision)
            self.leader = Leader(found.value.decode(), Term(self._incarnation, found.create_revision))
            # Once only: should two hosts claim one address by mistake, they do not take the lead from each other for ever.
            if self._is_first_campaign and self.leader.address == address:
                log.info("the process that led from this address has ended", address=address, term=str(self.leader.term))
                self._is_first_campaign = False
                await self._etcd.revoke(found.lease)
                continue
            self._is_first_campaign = False
            await self._wait_until_free(lease, answer.header.revision + 1)
        return None

    def _won(self, address: str, create_revision: int) -> Term:
        term = Term(self._incarnation, create_revision)
        self.leader = Leader(address, term)
        return term

    async def _wait_until_free(self, lease: Lease, revision: int) -> None:
        """Return when the key is deleted, this candidate's lease is lost, or history is gone: look again then."""
        async with self._etcd.watch(self._key, b"", revision) as watch, asyncio.TaskGroup() as tasks:
            waits = [tasks.create_task(_until_deleted(watch)), tasks.create_task(lease.lost.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()


async def _until_deleted(watch: Watch) -> None:
    try:
        async for batch in watch:
            if any(event.type == kv_pb2.Event.DELETE for event in batch.events):
                return
    except Compacted:
        return
