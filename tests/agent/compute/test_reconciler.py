"""One server from the leader's command to a running guest and back, on both hypervisors, with volumes of the fake driver."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.compute.console import ConsoleLogs
from agent.compute.disks import ServerDisks
from agent.compute.fake import FakeHypervisor
from agent.compute.guests import Guests
from agent.compute.kept import KeptServers
from agent.compute.processes import Processes
from agent.compute.reconciler import Here, ServerReconciler
from agent.facts import FactBook
from agent.guest.files import GuestFiles
from agent.stamps import Commands, Terms
from agent.state import StateFiles
from agent.storage.driver import Disks, WantedVolume
from agent.storage.fake import FakeDriver
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest, DesiredDisk, DesiredNic, DesiredServer, ServerFacts
from kumo.api.agent.v1.network_pb2 import PortFacts
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp, Term
from kumo.errors import FailedPrecondition
from kumo.ids import new_uid
from tests.agent.compute.conftest import Bench

STUB = (Path(__file__).parent / "stub.bin").read_bytes()
TERM = Term(incarnation=new_uid(), create_revision=5)
HOST = "h1"


@dataclass
class Rig:
    """An agent's compute role on a bench, with the leader's hands."""

    bench: Bench
    directory: Path
    reconciler: ServerReconciler
    commands: Commands[ApplyServerRequest]
    book: FactBook
    kept: KeptServers
    volumes: FakeDriver
    guest_files: GuestFiles
    drivers: Mapping[str, Disks]
    sequence: int = 0
    pool: PoolReference = field(default_factory=lambda: PoolReference(uid=new_uid(), driver="fake"))

    def stamp(self, generation: int, epoch: tuple[int, int] = (1, 1)) -> Stamp:
        self.sequence += 1
        return Stamp(term=TERM, sequence=self.sequence, epoch=Epoch(cell=epoch[0], host=epoch[1]), generation=generation)

    async def volume(self, server_uid: str, epoch: tuple[int, int] = (1, 1), owner: str = HOST) -> str:
        """Return the uid of a new bootable volume that is the server's."""
        uid = new_uid()
        await self.volumes.ensure_volume(self.pool, WantedVolume(uid, 1 << 20, 1))
        source = await self.volumes.disk_source(self.pool, uid)
        with source.path.open("r+b") as file:
            file.write(STUB)
        await self.own(uid, server_uid, epoch, owner)
        return uid

    async def own(self, uid: str, server_uid: str, epoch: tuple[int, int], host: str = HOST) -> None:
        before = await self.volumes.owner_of(self.pool, uid)
        after = Owner(server_uid=server_uid, host=host, epoch=Epoch(cell=epoch[0], host=epoch[1]))
        await self.volumes.set_owner(self.pool, uid, before or Owner(), after)

    def desired(self, volume: str, **fields: object) -> DesiredServer:
        known: dict[str, object] = {
            "name": "projects/p/servers/s",
            "hostname": "s",
            "vcpus": 1,
            "memory_mib": 16,
            "disks": [DesiredDisk(volume_uid=volume, pool=self.pool)],
            "running": True,
        }
        return DesiredServer(**(known | fields))  # type: ignore[arg-type]  # each field is of its own type

    async def apply(self, uid: str, desired: DesiredServer | None, generation: int = 1, epoch: tuple[int, int] = (1, 1)) -> None:
        request = ApplyServerRequest(stamp=self.stamp(generation, epoch), uid=uid, desired=desired)
        await self.reconciler.apply(request, 10.0)

    async def until(self, uid: str, is_so: Callable[[ServerFacts], bool], deadline_s: float = 30.0) -> ServerFacts:
        """Return the facts of a server once `is_so` of them."""
        last: ServerFacts | None = None
        try:
            async with asyncio.timeout(deadline_s):
                async for facts in self.book.watch():
                    for said in facts.servers:
                        if said.uid == uid:
                            last = said
                            if is_so(said):
                                return said
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s:g} s; last: {last}") from None
        raise AssertionError("the watch ended")

    async def start(self) -> tuple[str, str, ServerFacts]:
        """Return server, volume and facts of a server that runs."""
        uid = new_uid()
        volume = await self.volume(uid)
        await self.apply(uid, self.desired(volume))
        return uid, volume, await self.until(uid, running)

    async def pid(self, uid: str) -> int:
        process = (await self.bench.running(uid)).process
        assert process is not None
        return process.pid


def running(facts: ServerFacts) -> bool:
    return facts.power == ServerFacts.RUNNING and facts.settled


def off(facts: ServerFacts) -> bool:
    return facts.power == ServerFacts.OFF and facts.settled


def condition(facts: ServerFacts, kind: str) -> Condition:
    return next(said for said in facts.conditions if said.type == kind)


@asynccontextmanager
async def running_rig(bench: Bench, directory: Path, more_drivers: Mapping[str, Disks] | None = None) -> AsyncIterator[Rig]:
    """Yield a compute role that works; what `directory` keeps is what an earlier one left there."""
    files = StateFiles(directory / "kept")
    terms = Terms(files)
    commands = Commands(files, "servers", ApplyServerRequest, terms)
    kept = KeptServers(files)
    terms.load()
    commands.load()
    kept.load()
    book = FactBook(frozenset({"compute"}))
    guest_files = GuestFiles(directory / "guests")
    guest_files.prepare()
    volumes = FakeDriver(directory / "volumes")
    drivers: dict[str, Disks] = {"fake": volumes, **(more_drivers or {})}
    guests = Guests(guest_files, ConsoleLogs(bench.consoles))
    reconciler = ServerReconciler(
        Here(HOST, "qemu", bench.processes, lambda uid: f"kt{uid[-11:]}"),
        commands,
        bench.hypervisor,
        book,
        kept,
        ServerDisks(HOST, drivers, kept, bench.processes),
        guests,
    )
    rig = Rig(bench, directory, reconciler, commands, book, kept, volumes, guest_files, drivers)
    bench.listeners.append(reconciler.wake)
    reconciler.wake(None)
    work = [asyncio.ensure_future(reconciler.run()), asyncio.ensure_future(guests.run(reconciler.wake))]
    try:
        yield rig
    finally:
        bench.listeners.remove(reconciler.wake)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await volumes.close()
        files.close()


@pytest.fixture
async def rig(bench: Bench, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_rig(bench, tmp_path) as made:
        yield made


async def test_a_server_runs_stops_runs_and_goes(rig: Rig) -> None:
    uid, volume, facts = await rig.start()
    assert facts.virt_type == "qemu" and facts.HasField("start_time")
    assert condition(facts, "Started").status == condition(facts, "DiskOwned").status == Condition.TRUE
    assert condition(facts, "GuestReady").status == Condition.FALSE
    assert rig.guest_files.server(uid) is not None
    await rig.bench.printed(uid, b"stub ready")
    await rig.apply(uid, rig.desired(volume, running=False), 2)
    stopped = await rig.until(uid, off)
    assert condition(stopped, "Started").reason == "STOPPED"
    await rig.apply(uid, rig.desired(volume), 3)
    await rig.until(uid, running)
    await rig.apply(uid, None, 4)
    gone = await rig.until(uid, lambda said: said.power == ServerFacts.ABSENT)
    assert gone.settled and gone.held.generation == 4
    assert await rig.bench.hypervisor.list_uids() == []
    assert rig.guest_files.server(uid) is None and rig.kept.uids() == set()
    assert list(rig.bench.consoles.glob(f"{uid}*")) == []


async def test_a_server_starts_when_its_last_port_is_in_force(rig: Rig) -> None:
    uid, port = new_uid(), new_uid()
    volume = await rig.volume(uid)
    nic = DesiredNic(port_uid=port, mac="52:54:00:00:00:01", mtu=1450)
    await rig.apply(uid, rig.desired(volume, nics=[nic]))
    waiting = await rig.until(uid, lambda said: any(one.reason == "PORTS_NOT_READY" for one in said.conditions))
    assert waiting.power == ServerFacts.OFF and not waiting.settled
    rig.book.set_port(PortFacts(uid=port, binding=PortFacts.BOUND))
    await rig.until(uid, running)


async def test_a_port_that_was_only_plugged_or_unplugged_wakes_no_server_that_is_off(rig: Rig) -> None:
    uid, port = new_uid(), new_uid()
    volume = await rig.volume(uid)
    rig.book.set_port(PortFacts(uid=port, binding=PortFacts.BOUND))
    nics = [DesiredNic(port_uid=port, mac="52:54:00:00:00:02", mtu=1450)]
    await rig.apply(uid, rig.desired(volume, nics=nics, running=False))
    await rig.until(uid, off)
    # Kept without a wake: the next one is seen by what it does.
    command = ApplyServerRequest(stamp=rig.stamp(2), uid=uid, desired=rig.desired(volume, nics=nics))
    await rig.commands.accept(command)
    for plugged in (True, False):
        rig.book.set_port(PortFacts(uid=port, binding=PortFacts.BOUND, plugged=plugged))
    await rig.start()  # what was woken before has had its turn
    found = await rig.bench.hypervisor.look(uid)
    assert found is not None and found.process is None
    rig.book.set_port(PortFacts(uid=port, binding=PortFacts.UNBOUND))
    await rig.until(uid, lambda said: said.held.generation == 2)


async def test_a_guest_that_runs_on_without_its_tap_is_told_with_what_helps(rig: Rig) -> None:
    uid, port = new_uid(), new_uid()
    volume = await rig.volume(uid)
    rig.book.set_port(PortFacts(uid=port, binding=PortFacts.BOUND, plugged=True))
    await rig.apply(uid, rig.desired(volume, nics=[DesiredNic(port_uid=port, mac="52:54:00:00:00:03", mtu=1450)]))
    assert condition(await rig.until(uid, running), "PortsReady").status == Condition.TRUE
    rig.book.set_port(PortFacts(uid=port, binding=PortFacts.BOUND, plugged=False))
    told = await rig.until(uid, lambda said: condition(said, "PortsReady").reason == "TAP_LOST")
    assert told.power == ServerFacts.RUNNING and port in condition(told, "PortsReady").operator_message
    assert condition(told, "PortsReady").fix
    rig.book.set_port(PortFacts(uid=port, binding=PortFacts.BOUND, plugged=True))
    await rig.until(uid, lambda said: condition(said, "PortsReady").status == Condition.TRUE)


@pytest.mark.parametrize("owner", [None, ("other host", (1, 1)), (HOST, (1, 2))])
async def test_a_server_does_not_start_on_a_disk_that_is_not_its_own(rig: Rig, owner: tuple[str, tuple[int, int]] | None) -> None:
    uid = new_uid()
    volume = await rig.volume(uid if owner else "", owner[1] if owner else (0, 0), owner[0] if owner else "")
    await rig.apply(uid, rig.desired(volume))
    facts = await rig.until(uid, lambda said: any(one.reason == "DISK_NOT_OWNED" for one in said.conditions))
    assert facts.power == ServerFacts.OFF
    assert condition(facts, "DiskOwned").status == Condition.FALSE
    assert HOST not in condition(facts, "DiskOwned").message
    if owner is None:
        await rig.own(volume, uid, (1, 1))
        await rig.until(uid, running)


@pytest.mark.parametrize("hard", [False, True])
async def test_a_reboot_replaces_the_process_once(rig: Rig, hard: bool) -> None:
    uid, volume, _ = await rig.start()
    await rig.bench.printed(uid, b"stub ready")
    before = await rig.pid(uid)
    await rig.apply(uid, rig.desired(volume, reboots=1, hard=hard), 2)
    await rig.until(uid, lambda said: said.reboots == 1 and running(said))
    after = await rig.pid(uid)
    assert after != before
    await rig.apply(uid, rig.desired(volume, reboots=1, hard=hard), 2)
    await rig.until(uid, running)
    assert await rig.pid(uid) == after


async def test_a_guest_that_ends_by_itself_is_started_again(rig: Rig) -> None:
    uid, _, _ = await rig.start()
    before = await rig.pid(uid)
    await rig.bench.end_guest(uid)
    waiting = await rig.until(uid, lambda said: condition(said, "Started").reason == "RESTARTING")
    assert condition(waiting, "Started").fix
    await rig.until(uid, running)
    assert await rig.pid(uid) != before


async def test_the_guests_word_makes_it_ready_until_another_is_started(rig: Rig) -> None:
    uid, volume, _ = await rig.start()
    (rig.guest_files.ready / uid).touch()
    await rig.until(uid, lambda said: condition(said, "GuestReady").status == Condition.TRUE)
    await rig.apply(uid, rig.desired(volume, reboots=1, hard=True), 2)
    again = await rig.until(uid, lambda said: said.reboots == 1 and running(said))
    assert condition(again, "GuestReady").status == Condition.FALSE


async def test_what_was_commanded_is_made_so_after_the_agent_was_away(bench: Bench, tmp_path: Path) -> None:
    async with running_rig(bench, tmp_path) as rig:
        uid, _, _ = await rig.start()
        process = await rig.pid(uid)
    async with running_rig(bench, tmp_path) as again:
        await again.until(uid, running)
        assert await again.pid(uid) == process
    await bench.hypervisor.cut_power(uid)
    await bench.hypervisor.undefine(uid)
    async with running_rig(bench, tmp_path) as last:
        facts = await last.until(uid, running)
        assert facts.held.generation == 1


async def test_after_a_boot_of_the_host_a_dead_lock_is_broken_and_the_server_runs(tmp_path: Path) -> None:
    consoles = tmp_path / "consoles"
    consoles.mkdir()

    def booted(boot_id: str) -> Bench:
        return Bench(FakeHypervisor(tmp_path / "fake.json", boot_id, consoles), Processes(boot_id), consoles, None, tmp_path)

    async with running_rig(booted("boot 1"), tmp_path) as rig:
        uid = new_uid()
        volume = await rig.volume(uid)
        await rig.volumes.open_as(rig.pool, volume, "127.0.0.1:0/7")
        await rig.apply(uid, rig.desired(volume))
        facts = await rig.until(uid, running)
        assert list(facts.client_addresses) == ["127.0.0.1:0/7"]
        pool = rig.pool
    async with running_rig(booted("boot 2"), tmp_path) as again:
        await again.until(uid, running)
        assert await again.volumes.lock_owners(pool, volume) == []


async def test_a_lock_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    consoles = tmp_path / "consoles"
    consoles.mkdir()
    bench = Bench(FakeHypervisor(tmp_path / "fake.json", "boot", consoles), Processes("boot"), consoles, None, tmp_path)
    async with running_rig(bench, tmp_path) as rig:
        uid, volume, _ = await rig.start()
        await rig.volumes.open_as(rig.pool, volume, "127.0.0.1:0/9")
        await rig.bench.end_guest(uid)
        await rig.until(uid, running)
        assert await rig.volumes.lock_owners(rig.pool, volume) == ["127.0.0.1:0/9"]


async def test_a_command_that_is_behind_is_refused_with_what_is_held(rig: Rig) -> None:
    uid, volume, _ = await rig.start()
    await rig.apply(uid, None, 3)
    with pytest.raises(FailedPrecondition) as refused:
        await rig.apply(uid, rig.desired(volume), 2)
    assert refused.value.reason == "STALE_COMMAND"
    assert (refused.value.metadata["behind"], refused.value.metadata["held_generation"]) == ("generation", "3")
    await rig.until(uid, lambda said: said.power == ServerFacts.ABSENT)


async def test_a_server_that_nobody_speaks_of_is_told_and_left_alone(rig: Rig) -> None:
    definition = rig.bench.definition(generation=9, epoch=(3, 4))
    await rig.bench.hypervisor.define(definition)
    rig.reconciler.wake(None)
    facts = await rig.until(definition.uid, lambda said: said.power == ServerFacts.OFF)
    assert (facts.held.epoch.cell, facts.held.epoch.host, facts.held.generation) == (3, 4, 9)
    assert not facts.held.HasField("term")
