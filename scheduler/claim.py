"""Books a server on a host and frees it again: guarded writes for one transaction, checked by the very filters that chose the host.

The booking of a host is one key that every claim on it replaces, so that two who choose at the same time cannot both commit.
"""

from dataclasses import dataclass

from kumo.api.cell.v1.record_pb2 import Booking, Claim
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.store import ops
from kumo.store.commit import Changes, Witness
from kumo.store.errors import Conflict
from kumo.store.keys import INTENT, Keys
from kumo.store.record import serialized, table_name
from scheduler.filters import Request, failing
from scheduler.snapshot import Hosts, Policy, row_of


@dataclass(frozen=True)
class HostRead:
    """A host and its booking as they were read, with the revisions of the host's intent and of the booking (0: there is none)."""

    host: Host
    revision: int
    booking: Booking | None
    booking_revision: int


def claim_uid(server_uid: str, epoch: Epoch) -> str:
    return f"{server_uid}.{epoch.cell}.{epoch.host}"


def add_claim(changes: Changes, keys: Keys, read: HostRead, claim: Claim, policy: Policy) -> None:
    """Add to `changes` what books `claim` on the host, refused if the host, its booking or the claim changed since they were read.

    Raises Conflict if the host as read has no room: what chose it looked at an older one.
    """
    request = Request(claim.server_uid, claim.vcpus, claim.memory_mib)
    failed = failing(Hosts.of([row_of(read.host, read.booking, policy)]), request, 0)
    if failed:
        raise Conflict(f"the room on {read.host.name}", failed=",".join(one.reason for one in failed))
    host_key = keys.part(table_name(Host), read.host.uid, INTENT)
    _replaces(changes, keys, host_key, read.revision)
    _book(changes, keys, read, 1, claim)
    claim_key = keys.part(table_name(Claim), claim.uid, INTENT)
    _replaces(changes, keys, claim_key, 0)
    value = serialized(claim)
    changes.put(claim_key, value)
    changes.witness = Witness(claim_key, 0, value)


def add_release(changes: Changes, keys: Keys, read: HostRead, claim: Claim, claim_revision: int) -> None:
    """Add to `changes` what frees `claim`, refused if it was freed already."""
    claim_key = keys.part(table_name(Claim), claim.uid, INTENT)
    _replaces(changes, keys, claim_key, claim_revision)
    changes.delete(claim_key)
    _book(changes, keys, read, -1, claim)


def _book(changes: Changes, keys: Keys, read: HostRead, sign: int, claim: Claim) -> None:
    before = read.booking or Booking(uid=read.host.uid, name=read.host.name)
    after = Booking()
    after.CopyFrom(before)
    after.vcpus += sign * claim.vcpus
    after.memory_mib += sign * claim.memory_mib
    after.claim_count += sign
    key = keys.part(table_name(Booking), read.host.uid, INTENT)
    _replaces(changes, keys, key, read.booking_revision)
    if after.claim_count:
        changes.put(key, serialized(after))
    else:
        changes.delete(key)


def _replaces(changes: Changes, keys: Keys, key: bytes, revision: int) -> None:
    conflict = Conflict(keys.relative(key))
    changes.require(ops.mod_revision_is(key, revision), lambda _: conflict)
