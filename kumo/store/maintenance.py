"""Keeps etcd itself in order: forgets old history, warns when it fills up, and makes a full store writable again by itself.

Who leads does it. Where nobody can, since a full store grants no lease to lead with, whoever sees it does: each step may be
done twice.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kumo.clock import Clock, SystemClock
from kumo.errors import Unavailable
from kumo.log import get_logger
from kumo.store.client import Etcd
from kumo.store.etcd import rpc_pb2
from kumo.store.metrics import COMPACTED_REVISION, DATABASE_BYTES, DATABASE_RATIO, FULL_HEALED

log = get_logger(__name__)

_WARN_RATIO = 0.7


@dataclass(frozen=True)
class Schedule:
    """How often to look, how often to compact, and how old what is forgotten is at least."""

    look_s: float = 10.0
    compact_s: float = 300.0
    keep_s: float = 600.0


class Maintenance:
    """One for each etcd and process, however many planes lie in it."""

    def __init__(
        self,
        etcd: Etcd,
        *,
        is_leading: Callable[[], bool],
        has_leader: Callable[[], bool],
        quota_bytes: int,
        clock: Clock | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """`has_leader` says whether anybody leads, as far as this process knows. `quota_bytes` is what etcd was started with."""
        self._etcd, self._is_leading, self._has_leader = etcd, is_leading, has_leader
        self._quota_bytes = quota_bytes
        self._clock = clock or SystemClock()
        self._schedule = schedule or Schedule()
        self._seen: deque[tuple[float, int]] = deque()
        self._compacted_at = self._clock.monotonic()
        self._compacted_revision = 0
        self._is_warned = False

    async def run(self) -> None:
        """Look after etcd for ever."""
        while True:
            try:
                await self.look()
            except Unavailable as error:
                log.warning("etcd cannot be looked after", reason=error.reason, why=error.message)
            await self._clock.sleep(self._schedule.look_s)

    async def look(self) -> None:
        """Do once what is due."""
        statuses = await self._etcd.status()
        self._measure(statuses)
        for status in statuses.values():
            self._seen.append((self._clock.monotonic(), status.header.revision))
            break
        if not (self._is_leading() or not self._has_leader()):
            return
        full = [alarm for alarm in await self._etcd.alarms() if alarm.alarm == rpc_pb2.NOSPACE]
        if full:
            await self._heal(full, statuses)
        elif self._is_leading() and self._clock.monotonic() - self._compacted_at >= self._schedule.compact_s:
            await self._compact()

    def _measure(self, statuses: dict[str, rpc_pb2.StatusResponse]) -> None:
        for address, status in statuses.items():
            DATABASE_BYTES.labels(address).set(status.dbSize)
        ratio = max((status.dbSizeInUse for status in statuses.values()), default=0) / self._quota_bytes
        DATABASE_RATIO.set(ratio)
        if ratio >= _WARN_RATIO and not self._is_warned:
            log.warning("the store fills up", used_percent=round(ratio * 100), quota_bytes=self._quota_bytes)
        self._is_warned = ratio >= _WARN_RATIO

    async def _compact(self) -> None:
        """Forget what is older than keep_s, by the revisions that were seen then."""
        horizon = self._clock.monotonic() - self._schedule.keep_s
        revision = 0
        while self._seen and self._seen[0][0] <= horizon:
            revision = self._seen.popleft()[1]
        if revision > self._compacted_revision:
            await self._etcd.compact(revision)
            self._compacted_revision = revision
            COMPACTED_REVISION.set(revision)
        self._compacted_at = self._clock.monotonic()

    async def _heal(self, alarms: list[rpc_pb2.AlarmMember], statuses: dict[str, rpc_pb2.StatusResponse]) -> None:
        """Compact, rewrite each member's file, the leader's last, and only then disarm: before that etcd would be full again."""
        revision = max(status.header.revision for status in statuses.values())
        log.warning("the store is full: making room", revision=revision)
        await self._etcd.compact(revision, physical=True)
        self._seen.clear()
        followers_first = sorted(statuses, key=lambda address: statuses[address].leader == statuses[address].header.member_id)
        for address in followers_first:
            await self._etcd.defragment(address)
        for alarm in alarms:
            await self._etcd.disarm(alarm)
        FULL_HEALED.inc()
        log.info("the store takes writes again", revision=revision)
