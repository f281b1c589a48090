"""Remembers which requests were done, so that one that is sent again is answered and not done again. Ids are kept for a day."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from kumo.errors import InvalidArgument
from kumo.log import get_logger
from kumo.rpc.call import current_principal
from kumo.store.errors import Conflict
from kumo.store.keys import shard
from kumo.store.plane import Plane
from kumo.store.txn import Txn
from kumo.store.v1.values_pb2 import Request as Stored

log = get_logger(__name__)

KEPT = timedelta(hours=24)
_PREFIX = "request/"
_SWEPT_AT_ONCE = 50


@dataclass(frozen=True)
class Request:
    """One request that carries an id."""

    key: str
    fingerprint: bytes
    request_id: str

    @classmethod
    def of(cls, request: Any) -> "Request | None":
        """Return the caller's request, or None if it has no id or changes nothing."""
        if not request.request_id or request.validate_only:
            return None
        principal = hashlib.sha256(current_principal().name.encode()).hexdigest()[:16]
        digest = hashlib.sha256(request.DESCRIPTOR.full_name.encode() + b"\0" + request.SerializeToString(deterministic=True))
        request_id = request.request_id.lower()
        return cls(f"{_PREFIX}{shard(request_id)}/{principal}/{request_id}", digest.digest(), request_id)

    def record(self, txn: Txn, uid: str, now: datetime) -> None:
        """Have `txn` remember that it made or changed `uid` for this request, unless another one did."""
        time = Timestamp()
        time.FromDatetime(now)
        txn.require_absent(self.key, Conflict(f"request {self.request_id}"))
        txn.put(self.key, Stored(uid=uid, fingerprint=self.fingerprint, time=time).SerializeToString())

    async def answered(self, plane: Plane) -> str:
        """Return the uid of what this request has made or changed before; empty if it is new.

        Raises InvalidArgument if the id was used for another request.
        """
        found = await plane.read(self.key)
        if found is None:
            return ""
        stored = Stored.FromString(found.value)
        if stored.fingerprint != self.fingerprint:
            raise InvalidArgument(
                "REQUEST_ID_REUSED",
                f"request_id {self.request_id} was used for another request within the last 24 hours",
                field="request_id",
                fix="make a new UUID for each request that is not a repetition",
                request_id=self.request_id,
            )
        return stored.uid


async def sweep(plane: Plane, fence: Any, now: datetime) -> int:
    """Forget requests older than a day; return how many those were."""
    old: list[str] = []
    for number in range(256):
        for item in await plane.scan(f"{_PREFIX}{number:02x}/"):
            time = Stored.FromString(item.value).time.ToDatetime(UTC)
            if now - time > KEPT:
                old.append(plane.keys.relative(item.key))
    for start in range(0, len(old), _SWEPT_AT_ONCE):
        txn = plane.txn(fence=fence)
        for key in old[start : start + _SWEPT_AT_ONCE]:
            txn.delete_key(key)
        await txn.commit()
    if old:
        log.info("requests forgotten", count=len(old))
    return len(old)
