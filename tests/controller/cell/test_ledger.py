"""The ledger shows what the store holds, in order and whole, and writes only for the leader whose term it has."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from controller.cell.events import MOST_OF_A_THING, EventWriter, Happened, Subject
from controller.cell.ledger import Ledger, View
from kumo.api.cell.v1.record_pb2 import Booking
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.clock import SystemClock
from kumo.ids import new_uid
from kumo.store import ops
from kumo.store.client import Etcd
from kumo.store.errors import Conflict, Deposed
from kumo.store.keys import Keys
from kumo.store.term import Term
from tests.controller.cell.world import running
from tests.etcd import Cluster


@asynccontextmanager
async def _ledger(cluster: Cluster, prefix: str = "") -> AsyncIterator[tuple[Etcd, Ledger, View[Booking]]]:
    async with Etcd(cluster.addresses, rng=random.Random(1)) as etcd:
        keys = Keys(prefix or f"/test/{new_uid()}")
        lead = keys.raw("lead")
        found = await etcd.txn([ops.create_revision_is(lead, 0)], [ops.put(lead, b"me")], [ops.get(lead)])
        revision = found.header.revision if found.succeeded else found.responses[0].response_range.kvs[0].create_revision
        ledger = Ledger(etcd, keys, Term("i", revision))
        view = ledger.add(Booking)
        await ledger.load()
        async with running(ledger.run()):
            yield etcd, ledger, view


async def test_what_was_committed_is_visible_when_the_commit_returns(etcd_cluster: Cluster) -> None:
    async with _ledger(etcd_cluster) as (_etcd, ledger, view):
        seen: list[str] = []
        view.on_intent(seen.append)
        for number in range(5):
            change = ledger.change()
            change.put(Booking(uid=f"u{number}", vcpus=number), replaces=0)
            await ledger.commit(change)
            found = view.get(f"u{number}")
            assert found is not None and found.vcpus == number
        assert seen == [f"u{number}" for number in range(5)]


async def test_a_write_that_replaces_something_else_than_was_read_is_a_conflict_after_which_the_new_one_is_visible(
    etcd_cluster: Cluster,
) -> None:
    async with _ledger(etcd_cluster) as (_etcd, ledger, view), _ledger(etcd_cluster, ledger.keys.prefix) as (_other, second, _view):
        for writer, vcpus in ((ledger, 1), (second, 2)):
            change = writer.change()
            change.put(Booking(uid="u", vcpus=vcpus), replaces=0)
            if vcpus == 1:
                await writer.commit(change)
            else:
                with pytest.raises(Conflict):
                    await writer.commit(change)
        assert _view.get("u") == view.get("u")


async def test_a_deposed_leader_writes_nothing(etcd_cluster: Cluster) -> None:
    async with _ledger(etcd_cluster) as (etcd, ledger, view):
        await etcd.txn(success=[ops.delete(ledger.keys.raw("lead"))])
        await etcd.txn(success=[ops.put(ledger.keys.raw("lead"), b"another")])
        change = ledger.change()
        change.put(Booking(uid="u"), replaces=0)
        with pytest.raises(Deposed):
            await ledger.commit(change)
        assert view.get("u") is None


async def test_a_thing_keeps_so_many_events_and_the_latest(etcd_cluster: Cluster) -> None:
    async with Etcd(etcd_cluster.addresses, rng=random.Random(1)) as etcd:
        keys = Keys(f"/test/{new_uid()}")
        lead = await etcd.txn(success=[ops.put(keys.raw("lead"), b"me")])
        ledger = Ledger(etcd, keys, Term("i", lead.header.revision))
        events = ledger.add(Event, {"subject": lambda event: [event.subject_uid]})
        await ledger.load()
        async with running(ledger.run()):
            writer = EventWriter(events, "cells/a")
            for number in range(MOST_OF_A_THING + 5):
                change = ledger.change()
                writer.add(change, Subject("projects/p/servers/s", "u"), Happened("X", str(number)), SystemClock().now())
                await ledger.commit(change)
            kept = sorted(int(event.message) for event in events.find("subject", "u"))
            assert kept == list(range(5, MOST_OF_A_THING + 5))
