"""The store and the loop alone: two candidates for one plane, whose leader makes a device like the records that users write.

Small, so that many seeds are quick: what goes wrong in a watch, a lease, a queue or a transaction goes wrong here first.
"""

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kumo.clock import SystemClock
from kumo.errors import AlreadyExists, Unavailable
from kumo.loop import Loop
from kumo.store.client import Etcd
from kumo.store.errors import Conflict
from kumo.store.etcd import rpc_pb2
from kumo.store.plane import Plane, Sources
from kumo.store.table import Table
from kumo.store.term import Term
from tests.kumo.store.record_pb2 import Thing
from tests.kumo.store.things import thing, things
from tests.simulation import witness
from tests.simulation.faults import Act, Faults
from tests.simulation.loop import VirtualLoop
from tests.simulation.machines import ETCD, Broken, Machines, Process
from tests.simulation.run import at_rest
from tests.simulation.wire import Wire

PREFIX = "/small/plane"
CANDIDATES = ("p1", "p2")
NAMES = tuple(f"things/t{number}" for number in range(5))
FAULTS_S, PACE_S = 6.0, 0.35
LEASE_S = 2


@dataclass
class Device:
    """What the leader works on: it obeys whoever has the largest term, and fails now and then."""

    rng: random.Random
    sizes: dict[str, int] = field(default_factory=dict)
    term: tuple[str, int] = ("", 0)

    def meet(self, term: Term) -> None:
        """Obey this leader and no earlier one from now on, as an agent does once it is dialled."""
        if (term.incarnation, term.create_revision) < self.term:
            raise ConnectionRefusedError("a later leader was here")
        self.term = (term.incarnation, term.create_revision)

    async def make(self, term: Term, uid: str, size: int | None) -> None:
        """Have the thing of `uid` be of that size, or None: not be.

        Raises Unavailable at random, ConnectionRefusedError to a deposed leader.
        """
        await asyncio.sleep(self.rng.uniform(0.001, 0.03))
        self.meet(term)
        if self.rng.random() < 0.1:
            raise Unavailable("DEVICE_BUSY", "try again")
        if size is None:
            self.sizes.pop(uid, None)
        else:
            self.sizes[uid] = size


class Candidate:
    """One process: mirrors the table, and leads when elected."""

    def __init__(self, plane: Plane, device: Device) -> None:
        self.plane, self.device = plane, device
        self.table: Table[Thing] = things(plane)
        # What whoever is told of changes knows.
        self.told: set[str] = set()
        self.table.mirror.on_change(self._tell)

    def _tell(self, uid: str) -> None:
        if uid in self.table.mirror.replica.entries:
            self.told.add(uid)
        else:
            self.told.discard(uid)

    async def lead(self, term: Term) -> None:
        # Before it asks what there is: what an earlier leader had under way comes too late from here on.
        self.device.meet(term)
        loop = Loop("small", lambda uid: self._reconcile(term, uid), workers=4, keys=lambda: list(self._keys()))
        end = self.table.mirror.on_change(loop.add)
        try:
            await loop.run()
        finally:
            end()

    def _keys(self) -> list[str]:
        return sorted({*self.table.mirror.replica.entries, *self.device.sizes})

    async def _reconcile(self, term: Term, uid: str) -> None:
        record = await self.table.get_by_uid(uid)
        if record is None:
            await self.device.make(term, uid, None)
            return
        wanted = record.spec.size
        if record.status.state == f"s{wanted}" and self.device.sizes.get(uid) == wanted:
            return
        await self.device.make(term, uid, wanted)
        txn = self.plane.txn(fence=term)
        if txn.write_status(self.table, uid, Thing(status=Thing.Status(state=f"s{wanted}"))):
            await txn.commit()


class SmallWorld(Machines):
    """Processes p1 and p2; the device is a machine that nothing happens to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.device = self.make_device()
        for name in CANDIDATES:
            self.add(name, name, self._candidate)

    def make_device(self) -> Device:
        return Device(self.rng)

    def sizes_there(self) -> dict[str, int]:
        """Return the size of each record that the store has, by uid."""
        found = (Thing.FromString(item.value) for key, item in self.data.items.items() if key.endswith(b"/intent"))
        return {record.uid: record.spec.size for record in found}

    async def _candidate(self, process: Process) -> None:
        async with Etcd([ETCD]) as etcd:
            plane = await Plane.open(etcd, PREFIX, format_version=1, sources=Sources(SystemClock(), random.Random()))
            candidate = process.inside = Candidate(plane, self.device)
            async with plane:
                await plane.election.run(process.name, candidate.lead, ttl_s=LEASE_S)


class Writer:
    """A user with a store of its own: what it was told is done, it keeps in mind."""

    def __init__(self, world: SmallWorld, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.sizes: dict[str, int] = {}
        self.count = 0

    async def live(self, until_s: float) -> None:
        async with Etcd([ETCD]) as etcd:
            plane = await Plane.open(etcd, PREFIX, format_version=1, sources=Sources(SystemClock(), random.Random()))
            table = things(plane)
            async with plane:
                while self.world.loop.time() < until_s:
                    await asyncio.sleep(self.rng.expovariate(1 / 0.08))
                    await self.act(plane, table)

    async def burst(self) -> None:
        """Change things while they are worked on: the last change of each comes in the midst of it."""
        async with Etcd([ETCD]) as etcd:
            plane = await Plane.open(etcd, PREFIX, format_version=1, sources=Sources(SystemClock(), random.Random()))
            table = things(plane)
            async with plane:
                for _ in range(12):
                    await self.act(plane, table)

    async def act(self, plane: Plane, table: Table[Thing]) -> None:
        """Change one record, or make several at one revision; again until it is known what became of it."""
        self.count += 1
        names = self.rng.sample(NAMES, 4) if self.rng.random() < 0.3 else [self.rng.choice(NAMES)]
        is_delete = self.rng.random() < 0.3
        size = self.count
        while True:
            try:
                revision = await plane.revision()
                txn = plane.txn()
                for name in names:
                    old = await table.get(name, min_revision=revision)
                    if old is None and not is_delete:
                        txn.create(table, thing(name, size=size))
                    elif old is not None and is_delete:
                        txn.delete(table, old)
                    elif old is not None and old.spec.size != size:
                        new = Thing()
                        new.CopyFrom(old)
                        new.spec.size = size
                        txn.update_intent(table, old, new)
                if txn.changes.operations:
                    await txn.commit()
                break
            except (Conflict, AlreadyExists) as error:
                if not is_delete and size in self.world.sizes_there().values():
                    raise Broken(f"a write that took effect was refused: {error.message}") from error
            except (Unavailable, TimeoutError):
                pass
            await asyncio.sleep(self.rng.uniform(0.02, 0.2))
        for name in names:
            if is_delete:
                self.sizes.pop(name, None)
            else:
                self.sizes[name] = size


class Leaders:
    """What happens to leaders rather than to anybody."""

    def __init__(self, world: SmallWorld, rng: random.Random) -> None:
        self.world, self.rng = world, rng

    def acts(self) -> list[tuple[Act, int]]:
        return [(self.pause, 4), (self.slow_and_cut, 4)]

    def _leader(self) -> Process | None:
        lead = self.world.data.items.get(f"{PREFIX}/lead".encode())
        process = self.world.processes[lead.value.decode()] if lead is not None else None
        return process if process is not None and process.is_up else None

    async def pause(self) -> None:
        """For so long that another one leads when it wakes."""
        if (leader := self._leader()) is None or leader.node is None or leader.node.is_paused:
            return
        node = leader.node
        self.world.say(f"fault: SIGSTOP {leader.name}, which leads")
        self.world.loop.pause(node)
        await asyncio.sleep(self.rng.uniform(2.2, 3.5))
        self.world.say(f"fault: SIGCONT {leader.name}")
        self.world.loop.resume(node)

    async def slow_and_cut(self) -> None:
        """Answers to keepalives come late, and then none."""
        if (leader := self._leader()) is None:
            return
        self.world.say(f"fault: slow, then {leader.name}, which leads, is cut off")
        self.world.wire.weather.slow_s = 0.9
        await asyncio.sleep(self.rng.uniform(0.8, 2.0))
        pair = frozenset(("etcd", leader.machine))
        self.world.wire.cut.add(pair)
        await asyncio.sleep(0.2)
        self.world.wire.weather.slow_s = 0.0
        await asyncio.sleep(4.0)
        self.world.wire.cut.discard(pair)


class StorePlay:
    def build(self, loop: VirtualLoop, wire: Wire, rng: random.Random, folder: Path, shared: Path) -> SmallWorld:
        return SmallWorld(loop, wire, rng, folder, shared)

    async def prepare(self, world: SmallWorld) -> None:
        for name in world.processes:
            world.start(name)
        await asyncio.sleep(1.0)

    async def tell(self, world: SmallWorld, rng: random.Random) -> list[str]:
        judge, writer = StoreJudge(world), Writer(world, rng)
        until_s = world.loop.time() + FAULTS_S
        looking = asyncio.ensure_future(judge.keep_looking())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(Faults(world, rng, PACE_S, Leaders(world, rng).acts()).happen(until_s))
                tasks.create_task(writer.live(until_s))
            world.say("calm")
            await at_rest(world, lambda: judge.unsettled(writer.sizes))
            await writer.burst()
            await at_rest(world, lambda: judge.unsettled(writer.sizes))
        finally:
            looking.cancel()
        return judge.broken


class StoreJudge:
    def __init__(self, world: SmallWorld) -> None:
        self.world = world
        self.broken: list[str] = []
        world.data.on_commit.append(self.committed)

    def committed(self, revision: int, events: list[Any]) -> None:
        writer = self.world.data.writer
        is_barrier = all(b"/barrier/" in event.kv.key for event in events)
        if writer and not is_barrier and not rpc_pb2.TxnRequest.FromString(self.world.data.asked).compare:
            self.broken.append(f"revision {revision}: {writer} wrote without a guard")
        if not any(event.kv.key.endswith(b"/status") and event.type == 0 for event in events):
            return
        lead = self.world.data.items.get(f"{PREFIX}/lead".encode())
        if lead is None or lead.value.decode() != writer:
            self.broken.append(f"revision {revision}: {writer} wrote a status, and {lead.value.decode() if lead else 'nobody'} leads")

    async def keep_looking(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self.broken += witness.seen(self.world)

    async def unsettled(self, wanted: dict[str, int]) -> str:
        """Everybody has the same; the device is as the records say, and holds nothing else."""
        intents = {key: item for key, item in self.world.data.items.items() if key.endswith(b"/intent")}
        there = {found.name: found.spec.size for found in (Thing.FromString(item.value) for item in intents.values())}
        if there != wanted:
            raise Broken(f"written and answered: {wanted}; in the store: {there}")
        uids = self.world.sizes_there()
        for name in CANDIDATES:
            process = self.world.processes[name]
            if not process.is_up or process.inside is None:
                return f"{name} is not up"
            entries = process.inside.table.mirror.replica.entries
            if process.inside.told != entries.keys():
                return f"{name} was told of {sorted(process.inside.told)}, and has {sorted(entries)}"
            if {uid: entry.intent_revision for uid, entry in entries.items()} != {
                Thing.FromString(item.value).uid: item.mod_revision for item in intents.values()
            }:
                return f"the mirror of {name} differs from the store"
        if self.world.device.sizes != uids:
            return f"the device has {self.world.device.sizes}, and there are {uids}"
        return ""
