"""Compares what lies in a pool with what is recorded, now and then: removes what a tombstone proves to be ours and gone, reports the rest.

A pool may be shared by cells, so that a volume without a record here may be another cell's: it is reported and never touched.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import Gauge

from controller.cell.cell import Cell
from controller.cell.compute.server.desired import pool_reference
from kumo.api.agent.v1.storage_pb2 import DeleteVolumeRequest, ListVolumesRequest
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.log import get_logger

log = get_logger(__name__)

UNKNOWN = Gauge("kumo_cell_unknown_volumes", "Volumes in the pools of this cell that neither a record nor a tombstone of it explains.")
MISSING = Gauge("kumo_cell_missing_volumes", "Volumes that are recorded as made and are in no pool.")

_EVERY_S = 600.0
_UNREACHED_S = 10.0
_COMMAND_S = 60.0
_LISTED = 20
_MADE = frozenset({Volume.AVAILABLE, Volume.IN_USE})


@dataclass(frozen=True)
class Findings:
    """Uids, sorted. `leaked` are ours and gone; `unknown` may be another cell's; `missing` should be there and are not."""

    leaked: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def judge(listed: Iterable[str], recorded: Iterable[str], made: Iterable[str], ended: Iterable[str]) -> Findings:
    """Sort out what is listed in a pool. `made` are those recorded as made in it before it was listed."""
    there, known, gone = frozenset(listed), frozenset(recorded), frozenset(ended)
    return Findings(
        leaked=tuple(sorted((there - known) & gone)),
        unknown=tuple(sorted(there - known - gone)),
        missing=tuple(sorted((frozenset(made) & known) - there)),
    )


class VolumeAudit:
    """Called by its loop with the uid of a pool."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._findings: dict[str, Findings] = {}

    async def reconcile(self, pool_uid: str) -> float | None:
        pool = self._cell.records.pools.get(pool_uid)
        if pool is None:
            self._findings.pop(pool_uid, None)
            return None
        if not self._cell.agents.has_storage(pool):
            return _UNREACHED_S
        records = self._cell.records
        made = [volume.uid for volume in records.volumes.find("pool", pool_uid) if volume.status.state in _MADE]
        session = self._cell.agents.for_storage(pool_uid, pool)
        answer = await session.storage.ListVolumes(ListVolumesRequest(pool=pool_reference(pool)), timeout=_COMMAND_S)
        # Read after the list: what was removed meanwhile has its tombstone by now.
        ended = [end.uid for end in records.ends.all() if end.kind == "volume" and not end.withdrawn]
        findings = judge((facts.uid for facts in answer.volumes), records.volumes.uids(), made, ended)
        for uid in findings.leaked:
            await self._remove(pool, uid)
        self._tell(pool, findings)
        return _EVERY_S

    async def _remove(self, pool: Pool, uid: str) -> None:
        session = self._cell.agents.for_storage(uid, pool)
        end = self._cell.records.ends.get(uid)
        generation = end.stamp.generation if end is not None else 0
        request = DeleteVolumeRequest(stamp=session.stamp(None, generation), uid=uid, pool=pool_reference(pool))
        await session.storage.DeleteVolume(request, timeout=_COMMAND_S)
        log.warning("leaked volume removed", uid=uid, pool=pool.name)

    def _tell(self, pool: Pool, findings: Findings) -> None:
        before = self._findings.get(pool.uid, Findings())
        self._findings[pool.uid] = findings
        UNKNOWN.set(sum(len(one.unknown) for one in self._findings.values()))
        MISSING.set(sum(len(one.missing) for one in self._findings.values()))
        if findings.unknown and findings.unknown != before.unknown:
            log.warning("volumes that nothing here explains", pool=pool.name, count=len(findings.unknown), uids=findings.unknown[:_LISTED])
        if findings.missing and findings.missing != before.missing:
            log.error("volumes are missing", pool=pool.name, count=len(findings.missing), uids=findings.missing[:_LISTED])
