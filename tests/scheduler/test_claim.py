"""Claims on a real etcd: two who choose from the same picture never overcommit, and what is freed can be claimed again."""

import asyncio
import random
from collections.abc import Generator

import pytest

from kumo.api.cell.v1.record_pb2 import Booking, Claim
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.clock import SystemClock
from kumo.ids import new_uid
from kumo.store.barrier import Barrier
from kumo.store.changes import Changes, Committed, Refused
from kumo.store.client import Etcd
from kumo.store.commit import Committer
from kumo.store.errors import Conflict
from kumo.store.etcd.rpc_pb2 import RangeRequest
from kumo.store.group import GroupCommit
from kumo.store.keys import INTENT, Keys
from kumo.store.record import Etags, serialized, table_name
from scheduler.claim import HostRead, add_claims, claim_uid
from scheduler.snapshot import Policy
from tests.etcd import Cluster, cluster

_POLICY = Policy(vcpu_ratio=1.0, memory_ratio=1.0, memory_reserve_mib=0)
_EPOCH = Epoch(cell=1, host=1)


@pytest.fixture(scope="module")
def member() -> Generator[Cluster, None, None]:
    with cluster() as one:
        yield one


def _committer(etcd: Etcd, keys: Keys) -> Committer:
    rng = random.Random(1)
    return Committer(GroupCommit(etcd, Barrier(etcd, keys, rng)), SystemClock(), rng, Etags("i"))


class Booker:
    """One who claims, with a picture of the host of its own."""

    def __init__(self, etcd: Etcd, keys: Keys, host: Host) -> None:
        self._etcd, self._keys, self._host = etcd, keys, host
        self._committer = _committer(etcd, keys)

    async def look(self) -> HostRead:
        host = (await self._get(self._keys.part(table_name(Host), self._host.uid, INTENT)))[0]
        booking = await self._get(self._keys.part(table_name(Booking), self._host.uid, INTENT))
        read = Booking.FromString(booking[0].value) if booking else None
        return HostRead(self._host, host.mod_revision, read, booking[0].mod_revision if booking else 0)

    async def claim(self, read: HostRead, server_uid: str, vcpus: int) -> bool:
        changes = Changes()
        uid = claim_uid(server_uid, _EPOCH)
        claim = Claim(uid=uid, server_uid=server_uid, host_uid=read.host.uid, vcpus=vcpus, memory_mib=1, epoch=_EPOCH)
        try:
            add_claims(changes, self._keys, {read.host.uid: read}, _POLICY, booked=claim)
        except Conflict:
            return False
        return isinstance(await self._committer.commit(changes), Committed)

    async def release(self, read: HostRead, server_uid: str, vcpus: int) -> Committed | Refused:
        key = self._keys.part(table_name(Claim), claim_uid(server_uid, _EPOCH), INTENT)
        found = await self._get(key)
        changes = Changes()
        claim = Claim(uid=claim_uid(server_uid, _EPOCH), server_uid=server_uid, host_uid=read.host.uid, vcpus=vcpus, memory_mib=1)
        revision = found[0].mod_revision if found else 1
        add_claims(changes, self._keys, {read.host.uid: read}, _POLICY, freed=[(claim, revision)])
        return await self._committer.commit(changes)

    async def _get(self, key: bytes) -> list:  # type: ignore[type-arg]
        return list((await self._etcd.range(RangeRequest(key=key))).kvs)


async def _host(etcd: Etcd, keys: Keys, vcpus: int) -> Host:
    host = Host(uid=new_uid(), name="hosts/h1", status=Host.Status(state=Host.UP, vcpus=vcpus, memory_mib=10_000, virt_type="kvm"))
    changes = Changes()
    changes.put(keys.part(table_name(Host), host.uid, INTENT), serialized(host))
    await _committer(etcd, keys).commit(changes)
    return host


async def test_many_who_claim_at_once_never_fill_a_host_above_its_limit(member: Cluster) -> None:
    async with Etcd(member.addresses) as etcd:
        keys = Keys(f"/test/{new_uid()}")
        host = await _host(etcd, keys, 10)

        async def insist(number: int) -> bool:
            booker = Booker(etcd, keys, host)
            for _ in range(60):
                read = await booker.look()
                if read.booking is not None and read.booking.vcpus + 3 > 10:
                    return False
                if await booker.claim(read, f"s{number}", 3):
                    return True
            raise AssertionError("sixty conflicts in a row")

        won = await asyncio.gather(*(insist(number) for number in range(12)))
        assert sum(won) == 3
        read = await Booker(etcd, keys, host).look()
        assert read.booking is not None
        assert (read.booking.vcpus, read.booking.claim_count) == (9, 3)


async def test_two_with_the_same_picture_cannot_both_claim(member: Cluster) -> None:
    async with Etcd(member.addresses) as etcd:
        keys = Keys(f"/test/{new_uid()}")
        host = await _host(etcd, keys, 10)
        first, second = Booker(etcd, keys, host), Booker(etcd, keys, host)
        picture = await first.look()
        assert await first.claim(picture, "a", 10)
        assert not await second.claim(picture, "b", 10)
        assert not await second.claim(await second.look(), "b", 10), "the fresh picture shows no room"


async def test_a_claim_is_freed_once_and_its_room_can_be_claimed_again(member: Cluster) -> None:
    async with Etcd(member.addresses) as etcd:
        keys = Keys(f"/test/{new_uid()}")
        host = await _host(etcd, keys, 10)
        booker = Booker(etcd, keys, host)
        assert await booker.claim(await booker.look(), "a", 10)
        assert isinstance(await booker.release(await booker.look(), "a", 10), Committed)
        assert isinstance(await booker.release(await booker.look(), "a", 10), Refused)
        assert (await booker.look()).booking is None
        assert await booker.claim(await booker.look(), "b", 10)


async def test_a_host_that_is_cordoned_after_the_choice_refuses_the_claim(member: Cluster) -> None:
    async with Etcd(member.addresses) as etcd:
        keys = Keys(f"/test/{new_uid()}")
        host = await _host(etcd, keys, 10)
        booker = Booker(etcd, keys, host)
        picture = await booker.look()
        cordoned = Changes()
        host.spec.cordoned = True
        cordoned.put(keys.part(table_name(Host), host.uid, INTENT), serialized(host))
        await _committer(etcd, keys).commit(cordoned)
        host.spec.cordoned = False
        assert not await booker.claim(picture, "a", 1)
