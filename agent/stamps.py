"""Decides which commands are obeyed, and keeps on disk the last one about each thing with its stamp; what they ask for is others'.

A command whose `desired` is unset says that the thing shall go; it is kept, as the thing's tombstone, until the leader acknowledged
that it recorded the end, and an hour more, so that a late duplicate of an older command finds what refuses it.
"""

import asyncio
import math
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Generic, TypeVar

from agent.state import StateFiles
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest
from kumo.api.agent.v1.network_pb2 import ApplyNetworkRequest, ApplyPortRequest
from kumo.api.agent.v1.state_pb2 import KeptEnd
from kumo.api.type.v1.stamp_pb2 import Stamp, Term
from kumo.clock import Clock, SystemClock
from kumo.locks import KeyedLocks
from kumo.log import get_logger
from kumo.stamps import behind, refusal, term_order

log = get_logger(__name__)

TOMBSTONE_AGE = timedelta(hours=1)
COMMIT_WITHIN_S = 60.0
# A clock that is put forward must not make a tombstone go while commands from before it may be under way.
_AT_LEAST_S = 2 * COMMIT_WITHIN_S

_TERMS = "terms"
_LARGEST = "largest"


class Terms:
    """The largest term that was obeyed, of all things together."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files
        self._largest = Term()
        self._lock = asyncio.Lock()

    def load(self) -> None:
        self._largest = self._files.load(_TERMS, Term).get(_LARGEST, Term())

    @property
    def largest(self) -> Term:
        """An empty one where none was obeyed yet."""
        return self._largest

    async def obey(self, term: Term) -> None:
        """Raise FailedPrecondition STALE_COMMAND if `term` is behind the largest; else it is the largest, on disk too, from now on."""
        async with self._lock:
            self.check(term)
            if term_order(term) > term_order(self._largest):
                kept = Term.FromString(term.SerializeToString())
                await self._files.save(_TERMS, _LARGEST, kept, is_vital=True)
                self._largest = kept
                log.info("leader obeyed", incarnation=term.incarnation, create_revision=term.create_revision)

    def check(self, term: Term) -> None:
        """Raise FailedPrecondition STALE_COMMAND if `term` is behind the largest."""
        if term_order(term) < term_order(self._largest):
            raise refusal("host", "term", Stamp(term=term), None, self._largest)


# An order about one thing: its stamp, its uid, and what it shall be.
C = TypeVar("C", ApplyServerRequest, ApplyNetworkRequest, ApplyPortRequest)


class Commands(Generic[C]):
    """The last command about each thing of one kind. load() comes before all else."""

    def __init__(self, files: StateFiles, kind: str, command_type: type[C], terms: Terms, clock: Clock | None = None) -> None:
        self._files = files
        self._kind = kind
        self._ended_kind = f"{kind}-ended"
        self._type: type[C] = command_type
        self._terms = terms
        self._clock = clock or SystemClock()
        self._held: dict[str, C] = {}
        self._ended: dict[str, KeptEnd] = {}
        # When this process heard of the acknowledgement, on the monotonic clock. What came before it started came on connections
        # that ended with its predecessor.
        self._heard_at: dict[str, float] = {}
        self._locks = KeyedLocks()

    def load(self) -> None:
        """Read what is kept. Blocks: for the start of the process."""
        self._held = self._files.load(self._kind, self._type)
        self._ended = self._files.load(self._ended_kind, KeptEnd)

    @property
    def held(self) -> Mapping[str, C]:
        """The last command about each thing by uid, tombstones among them. Not to be changed."""
        return MappingProxyType(self._held)

    def is_tombstone(self, uid: str) -> bool:
        return (command := self._held.get(uid)) is not None and not command.HasField("desired")

    async def accept(self, command: C, within_s: float | None = None) -> None:
        """Return when `command` is on disk and is what is held.

        Raises FailedPrecondition STALE_COMMAND if another is ahead, DeadlineExceeded if it could not be committed in `within_s`.
        """
        not_after = time.monotonic() + min(within_s if within_s is not None else COMMIT_WITHIN_S, COMMIT_WITHIN_S)
        async with self._locks.alone(command.uid):
            held = self._held.get(command.uid)
            number = behind(command.stamp, held.stamp if held else None, self._terms.largest)
            if number is not None:
                raise refusal("host", number, command.stamp, held.stamp if held else None, self._terms.largest)
            await self._terms.obey(command.stamp.term)
            if command == held:
                return
            if command.uid in self._ended:
                await self._files.remove(self._ended_kind, command.uid)
                del self._ended[command.uid]
            await self._commit(command, not_after)

    async def acknowledge(self, uids: Iterable[str]) -> None:
        """Take it that the leader recorded the ends of `uids`; those that are not held, or shall not go, are passed over."""
        end = KeptEnd()
        end.acknowledge_time.FromDatetime(self._clock.now())
        for uid in uids:
            async with self._locks.alone(uid):
                if self.is_tombstone(uid) and uid not in self._ended:
                    await self._files.save(self._ended_kind, uid, end)
                    self._ended[uid], self._heard_at[uid] = end, self._clock.monotonic()

    async def drop_old_tombstones(self) -> list[str]:
        """Forget what was acknowledged an hour ago or earlier, and return its uids."""
        dropped: list[str] = []
        oldest = self._clock.now() - TOMBSTONE_AGE
        for uid, end in list(self._ended.items()):
            heard_s = self._clock.monotonic() - self._heard_at.get(uid, -math.inf)
            if end.acknowledge_time.ToDatetime(oldest.tzinfo) > oldest or heard_s < _AT_LEAST_S:
                continue
            async with self._locks.alone(uid):
                if self._ended.get(uid) is not end:
                    continue
                # In this order: a crash in between leaves the end of nothing, which the next call removes, and never a tombstone
                # that waits for an acknowledgement that was given.
                if self.is_tombstone(uid):
                    await self._files.remove(self._kind, uid)
                    del self._held[uid]
                    dropped.append(uid)
                await self._files.remove(self._ended_kind, uid)
                del self._ended[uid]
                self._heard_at.pop(uid, None)
        return dropped

    async def _commit(self, command: C, not_after: float) -> None:
        kept = self._type.FromString(command.SerializeToString())
        try:
            # A thing that shall go makes room.
            await self._files.save(self._kind, command.uid, kept, not_after=not_after, is_vital=not kept.HasField("desired"))
        except asyncio.CancelledError:
            self._held[command.uid] = kept  # the write went through before save() let go
            raise
        self._held[command.uid] = kept
