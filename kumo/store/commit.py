"""Sends guarded changes to etcd until it is known what became of them, and says which guards did not hold.

An answer that does not come is not a failure: the same changes are sent again where their guards make a second application
impossible, and what they wrote is read back; the first ones are kept from taking effect later. It knows keys and revisions, not records.
"""

import asyncio
import random
from dataclasses import dataclass

from kumo.clock import Clock
from kumo.store.changes import Changes, Committed, Refused, Witness
from kumo.store.errors import StoreUnreachable, Unknown
from kumo.store.etcd import rpc_pb2 as pb
from kumo.store.group import GroupCommit, Unsettled
from kumo.store.interface import EtcdClient
from kumo.store.metrics import COMMITS
from kumo.store.record import Etags, stamp

# The watch stream asks for a sign of life each second.
_SILENT_S = 2.5
# What is left of the second in which whoever writes is told that etcd is away.
_ASKED_S = 0.7


@dataclass(frozen=True)
class Committer:
    """Sends changes to etcd until it is known what became of them."""

    group: GroupCommit
    clock: Clock
    rng: random.Random
    etags: Etags
    timeout_s: float = 4.0

    @property
    def etcd(self) -> EtcdClient:
        return self.group.etcd

    async def commit(self, changes: Changes) -> Committed | Refused:
        """Raises Unknown if neither an answer nor a trace could be had in time, StoreFull, StoreUnreachable.

        While etcd is silent nothing is begun: whoever asked is told so at once.
        """
        if self._is_silent() and not await self._answers():
            COMMITS.labels("unreachable").inc()
            raise StoreUnreachable(f"nothing was heard of it for {self.etcd.silent_s():.0f} s")
        deadline = self.clock.monotonic() + self.timeout_s
        is_repeated = False
        while True:
            try:
                result = await self.group.send(changes)
            except (Unknown, StoreUnreachable) as error:
                may_have_happened = is_repeated or isinstance(error, Unknown)
                # The client has looked for somebody who takes requests already, for as long as a caller should wait.
                is_refused = isinstance(error, StoreUnreachable) and not isinstance(error, Unsettled)
                is_hopeless = is_refused or self._is_silent() or self.clock.monotonic() > deadline
                if changes.witness is None or is_hopeless:
                    COMMITS.labels("unknown" if may_have_happened else "unreachable").inc()
                    if may_have_happened and not isinstance(error, Unknown):
                        raise Unknown(error.message) from error
                    raise
                is_repeated = may_have_happened
                await self.clock.sleep(self.rng.uniform(0.02, 0.1))
                continue
            if isinstance(result, Refused) and is_repeated and (revision := _own_revision(changes.witness, result)):
                COMMITS.labels("read_back").inc()
                result = Committed(revision)
            COMMITS.labels("ok" if isinstance(result, Committed) else "refused").inc()
            if isinstance(result, Committed):
                for message in changes.stamped:
                    stamp(message, self.etags.of(result.revision))
            return result

    def _is_silent(self) -> bool:
        return self.etcd.silent_s() > _SILENT_S

    async def _answers(self) -> bool:
        """Ask etcd itself before a write is refused: it may have been this process that was stopped, and not etcd."""
        try:
            async with asyncio.timeout(_ASKED_S):
                await self.etcd.range(pb.RangeRequest(key=self.group.barrier.key, keys_only=True))
        except (TimeoutError, StoreUnreachable):
            return False
        return True


def _own_revision(witness: Witness | None, refused: Refused) -> int:
    """Return the revision at which an earlier sending of the same changes took effect, or 0 if it did not."""
    if witness is None or witness.key not in refused.found:
        return 0
    items = refused.found[witness.key].items
    if witness.value is None:
        return 0 if items else refused.revision
    if items and items[0].value == witness.value and items[0].mod_revision != witness.before:
        return int(items[0].mod_revision)
    return 0
