"""Books a server on a host and frees it again: guarded writes for one transaction, checked by the very filters that chose the host.

The booking of a host is one key that every claim on it replaces, so that two who choose at the same time cannot both commit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kumo.api.cell.v1.record_pb2 import Booking, Claim
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.store import ops
from kumo.store.changes import Changes, Witness
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


def add_claims(
    changes: Changes,
    keys: Keys,
    hosts: Mapping[str, HostRead],
    policy: Policy,
    *,
    booked: Claim | None = None,
    freed: Iterable[tuple[Claim, int]] = (),
) -> None:
    """Add to `changes` what books and frees these claims, refused if a host, its booking or a claim changed since they were read.

    `hosts` has the host of each claim, by uid; `freed` are claims with the revision that wrote them.
    Raises Conflict if the host as read has no room for `booked`: what chose it looked at an older one.
    """
    bookings = {uid: _copy(read.booking) or Booking(uid=uid, name=read.host.name) for uid, read in hosts.items()}
    touched: set[str] = set()
    for claim, revision in freed:
        key = keys.part(table_name(Claim), claim.uid, INTENT)
        _replaces(changes, keys, key, revision)
        changes.delete(key)
        _add(bookings[claim.host_uid], claim, -1)
        touched.add(claim.host_uid)
    if booked is not None:
        read = hosts[booked.host_uid]
        _check(read.host, bookings[booked.host_uid], booked, policy)
        _replaces(changes, keys, keys.part(table_name(Host), booked.host_uid, INTENT), read.revision)
        key, value = keys.part(table_name(Claim), booked.uid, INTENT), serialized(booked)
        _replaces(changes, keys, key, 0)
        changes.put(key, value)
        changes.witness = Witness(key, 0, value)
        _add(bookings[booked.host_uid], booked, 1)
        touched.add(booked.host_uid)
    for uid in sorted(touched):
        key = keys.part(table_name(Booking), uid, INTENT)
        _replaces(changes, keys, key, hosts[uid].booking_revision)
        if bookings[uid].claim_count:
            changes.put(key, serialized(bookings[uid]))
        else:
            changes.delete(key)


def _check(host: Host, booking: Booking, claim: Claim, policy: Policy) -> None:
    # Which hosts reach a pool never changes, so that it is not looked at again.
    request = Request(claim.server_uid, claim.vcpus, claim.memory_mib)
    failed = failing(Hosts.of([row_of(host, booking, policy)]), request, 0)
    if failed:
        raise Conflict(f"the room on {host.name}", failed=",".join(one.reason for one in failed))


def _copy(booking: Booking | None) -> Booking | None:
    return Booking.FromString(booking.SerializeToString()) if booking is not None else None


def _add(booking: Booking, claim: Claim, sign: int) -> None:
    booking.vcpus += sign * claim.vcpus
    booking.memory_mib += sign * claim.memory_mib
    booking.claim_count += sign


def _replaces(changes: Changes, keys: Keys, key: bytes, revision: int) -> None:
    conflict = Conflict(keys.relative(key))
    changes.require(ops.mod_revision_is(key, revision), lambda _: conflict)
