"""Makes each server of this host what the last command about it says: looks, has plan() decide, takes the step, and looks again."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from prometheus_client import Counter

from agent.compute import guests as guest_files
from agent.compute.disks import ServerDisks
from agent.compute.driver import Definition, Domain, Hypervisor, Nic, Process
from agent.compute.kept import KeptServers
from agent.compute.plan import (
    STEADY_S,
    STOPPING,
    TRY_DISK_S,
    Asked,
    AskToStop,
    BreakLocks,
    CheckDisks,
    CutPower,
    Define,
    ForgetKept,
    KeepClients,
    KeepReboots,
    Resume,
    Start,
    Step,
    Undefine,
    Wait,
    World,
    WriteGuestFiles,
    plan,
    restart_delay_s,
)
from agent.compute.ports import ServerPorts, Unplugged
from agent.compute.processes import Processes
from agent.compute.report import Conditions, Situation, facts_of, said_of
from agent.facts import FactBook
from agent.stamps import Commands
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest, DesiredServer, ServerFacts
from kumo.clock import Clock, SystemClock
from kumo.errors import Error
from kumo.log import get_logger
from kumo.loop import Loop

log = get_logger(__name__)

STEPS = Counter("kumo_compute_steps_total", "Steps taken to make servers what they shall be.", ["step"])

# The key under which the loop looks which servers there are at all.
_ALL = "all"
_RESYNC_S = 60.0


class GuestSide(Protocol):
    """What the guest's side of the host offers: files that it may read about itself, and its word that it is ready."""

    async def write_server(self, uid: str, desired: DesiredServer) -> None: ...

    async def remove_server(self, uid: str) -> None:
        """Leave nothing of the guest, what it printed included."""

    def is_ready(self, uid: str) -> bool:
        """Return whether the guest said that it is ready since expect_ready() was called last."""

    async def expect_ready(self, uid: str) -> None:
        """Forget that the guest was ready: another is started."""


@dataclass
class _Memory:
    """What need not survive the agent: lost, a guest is asked to stop once more, or started again at once."""

    conditions: Conditions
    domain: Domain | None = None
    # The last process that was seen, and whether this agent had it end.
    process: Process | None = None
    started_at: float = 0.0
    stopping: bool = False
    asked_first: float | None = None
    asked_last: float | None = None
    ended_early: int = 0
    restart_at: float = 0.0
    try_disk_at: float = 0.0
    guest_files: bytes = b""
    disks_foreign: str | None = None
    # What was said of its ports when it was last looked at.
    ports_lacking: str = ""
    unplugged: Unplugged = field(default_factory=Unplugged)

    def forget_asking(self) -> None:
        self.asked_first = self.asked_last = None


@dataclass(frozen=True)
class Here:
    """Which host this is, and how guests run on it."""

    host: str
    virt_type: str
    processes: Processes
    # Returns what the host's end of a port is called.
    tap_of: Callable[[str], str]
    # Guests that run have taps.
    has_taps: bool = True


@dataclass
class _Listing:
    """Which servers are still to be looked at before it is known what is on this host."""

    left: set[str] | None = None
    told: bool = False


class ServerReconciler:
    """The servers of this host. wake() whoever changed; run() does the work."""

    def __init__(
        self,
        here: Here,
        commands: Commands[ApplyServerRequest],
        hypervisor: Hypervisor,
        book: FactBook,
        kept: KeptServers,
        disks: ServerDisks,
        guests: GuestSide,
        clock: Clock | None = None,
    ) -> None:
        self._here, self._commands, self._hypervisor, self._book = here, commands, hypervisor, book
        self._kept, self._disks, self._guests = kept, disks, guests
        self._clock = clock or SystemClock()
        self._loop = Loop("servers", self.reconcile, clock=self._clock, keys=self._uids, resync_s=_RESYNC_S)
        self._memory: dict[str, _Memory] = {}
        self._ports = ServerPorts(book, has_taps=here.has_taps)
        self._listing = _Listing()
        book.on_port_change(self._port_changed)

    def wake(self, uid: str | None) -> None:
        """Have a server looked at; None: have looked which there are."""
        self._loop.add(_ALL if uid is None else uid)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    async def apply(self, command: ApplyServerRequest, within_s: float | None) -> ServerFacts:
        """Keep `command`, have the work begin, and return what is so at the moment."""
        await self._commands.accept(command, within_s)
        self.wake(command.uid)
        said = self._book.server(command.uid)
        facts = ServerFacts(uid=command.uid)
        if said is not None:
            facts.CopyFrom(said)
        facts.held.CopyFrom(command.stamp)
        facts.settled = said is not None and said.settled and said.held == command.stamp
        return facts

    async def forget_old_tombstones(self) -> None:
        for uid in await self._commands.drop_old_tombstones():
            self._book.drop(uid)
            self._memory.pop(uid, None)

    async def reconcile(self, key: str) -> float | None:
        """Bring one server to what is asked. Returns when to look again, if not only upon a change."""
        if self._hypervisor.problem:
            return None  # all are looked at when it is back
        if key == _ALL:
            await self._list()
            return None
        try:
            return await self._settle(key)
        finally:
            self._looked_at(key)

    async def _settle(self, uid: str) -> float | None:
        memory = self._memory.setdefault(uid, _Memory(Conditions(self._clock)))
        while True:
            command = self._commands.held.get(uid)
            world = await self._look(uid, command, memory)
            if command is None:
                self._publish_foreign(uid, world)
                return None
            step: Step | None = None
            try:
                asked, definition = await self._asked(command, world.domain)
                step = plan(asked, world)
                if isinstance(step, CheckDisks):
                    before, memory.disks_foreign = memory.disks_foreign, await self._disks.foreign(command)
                    if memory.disks_foreign and memory.disks_foreign != before:
                        log.warning("server not started: a disk is not its own", server=uid, why=memory.disks_foreign)
                    step = plan(asked, replace(world, disks_foreign=memory.disks_foreign))
                if not (isinstance(step, AskToStop | CutPower) or (isinstance(step, Wait) and step.reason == STOPPING)):
                    memory.forget_asking()
                if asked is not None and not asked.running:
                    memory.restart_at, memory.ended_early = 0.0, 0
                self._publish(command, world, step, memory)
                if step is None:
                    return memory.unplugged.again_s(self._clock.monotonic())
                if isinstance(step, Wait):
                    return step.again_s
                await self._take(step, command, definition, memory)
            except Error as error:
                self._publish(command, world, step, memory, error)
                raise

    async def _look(self, uid: str, command: ApplyServerRequest | None, memory: _Memory) -> World:
        domain = await self._hypervisor.look(uid)
        now = self._clock.monotonic()
        self._note_end(uid, memory, domain, now)
        memory.domain = domain
        memory.ports_lacking = self._ports.lacking(command)
        runs = domain is not None and domain.process is not None
        memory.unplugged = self._ports.look(command, runs=runs, before=memory.unplugged, now=now)
        clients = self._kept.clients(uid)
        to_go = command is not None and not command.HasField("desired")
        return World(
            domain=domain,
            reboots=self._kept.reboots(uid),
            clients_of=clients.process if clients else None,
            clients_gone=clients is not None and self._here.processes.is_gone(clients.process),
            ports_lacking=memory.ports_lacking,
            guest_files=memory.guest_files != b"" and (to_go or memory.guest_files == guest_files.digest(command)),
            asked_first_s=None if memory.asked_first is None else now - memory.asked_first,
            asked_last_s=None if memory.asked_last is None else now - memory.asked_last,
            restart_in_s=max(0.0, memory.restart_at - now),
            try_disk_in_s=max(0.0, memory.try_disk_at - now),
        )

    def _note_end(self, uid: str, memory: _Memory, domain: Domain | None, now: float) -> None:
        """See whether the process that was there before has ended, and whether that was this agent's doing."""
        process = domain.process if domain else None
        if process == memory.process:
            return
        if memory.process is not None and process is None and not memory.stopping:
            ran_s = now - memory.started_at
            memory.ended_early = 0 if ran_s >= STEADY_S else memory.ended_early + 1
            memory.restart_at = now + restart_delay_s(memory.ended_early)
            log.info("guest ended by itself", server=uid, ran_s=round(ran_s, 1), in_a_row=memory.ended_early)
        if process is not None:
            memory.started_at = now
        memory.process, memory.stopping = process, False
        memory.forget_asking()

    async def _asked(self, command: ApplyServerRequest, domain: Domain | None) -> tuple[Asked | None, Definition | None]:
        if not command.HasField("desired"):
            return None, None
        desired = command.desired
        if not desired.running and domain is not None:
            # Its disks need not be found to have it stopped.
            return Asked(domain.digest, False, desired.reboots, desired.hard), None
        definition = await self._definition(command)
        return Asked(self._hypervisor.digest_of(definition), desired.running, desired.reboots, desired.hard), definition

    async def _definition(self, command: ApplyServerRequest) -> Definition:
        desired, epoch = command.desired, command.stamp.epoch
        return Definition(
            uid=command.uid,
            name=desired.name,
            project_uid=desired.project_uid,
            generation=command.stamp.generation,
            epoch=(epoch.cell, epoch.host),
            virt_type=self._here.virt_type,
            vcpus=desired.vcpus,
            memory_mib=desired.memory_mib,
            disks=tuple([await self._disks.definition_of(disk) for disk in desired.disks]),
            nics=tuple(Nic(self._here.tap_of(nic.port_uid), nic.mac, nic.mtu) for nic in desired.nics),
        )

    async def _take(self, step: Step, command: ApplyServerRequest, definition: Definition | None, memory: _Memory) -> None:
        uid = command.uid
        STEPS.labels(type(step).__name__).inc()
        match step:
            case Define():
                await self._hypervisor.define(_given(definition))
            case WriteGuestFiles():
                await self._guests.write_server(uid, command.desired)
                memory.guest_files = guest_files.digest(command)
            case KeepReboots(reboots):
                await self._kept.keep_reboots(uid, reboots)
            case BreakLocks():
                await self._disks.break_locks(command)
            case Start():
                await self._guests.expect_ready(uid)
                await self._hypervisor.start(_given(definition))
                memory.restart_at = 0.0
            case KeepClients(process):
                await self._disks.keep_clients(command, process)
            case Resume():
                await self._hypervisor.resume(uid)
                again = memory.domain is not None and memory.domain.halted
                memory.try_disk_at = self._clock.monotonic() + TRY_DISK_S if again else 0.0
                log.info("server tries its disk again" if again else "server started", server=uid, name=command.desired.name)
            case AskToStop():
                await self._ask_to_stop(uid, memory)
            case CutPower():
                memory.stopping = True
                await self._hypervisor.cut_power(uid)
                log.info("server's power cut", server=uid)
            case Undefine():
                await self._hypervisor.undefine(uid)
            case ForgetKept():
                await self._forget(command, memory)
            case CheckDisks() | Wait():
                raise AssertionError(f"{step} was handled before")

    async def _ask_to_stop(self, uid: str, memory: _Memory) -> None:
        now = self._clock.monotonic()
        memory.stopping = True
        if memory.asked_first is None:
            memory.asked_first = now
        memory.asked_last = now
        await self._hypervisor.ask_to_stop(uid)
        log.info("guest asked to stop", server=uid)

    async def _forget(self, command: ApplyServerRequest, memory: _Memory) -> None:
        """Remove what is kept beside the command; reboots last, because they are what says that there is something to remove."""
        await self._guests.remove_server(command.uid)
        await self._kept.forget_clients(command.uid)
        await self._kept.forget_reboots(command.uid)
        self._disks.forget(command.uid)
        memory.guest_files = b""
        self._ports.forget(command.uid)

    def _publish(self, command: ApplyServerRequest, world: World, step: Step | None, memory: _Memory, error: Error | None = None) -> None:
        settled = step is None and error is None
        if command.HasField("desired"):
            lost = memory.unplugged.what if memory.unplugged.is_lost(self._clock.monotonic()) else ""
            is_ready = self._guests.is_ready(command.uid)
            said = said_of(command.desired, Situation(world, step, error, memory.disks_foreign, is_ready, taps_lost=lost))
            conditions = memory.conditions.say(said, command.stamp.generation)
        else:
            conditions = []
        clients = self._kept.clients(command.uid)
        facts = facts_of(
            command.uid,
            command.stamp,
            world.domain,
            settled=settled,
            reboots=world.reboots.done if world.reboots else 0,
            conditions=conditions,
            client_addresses=clients.addresses() if clients else [],
        )
        if settled and not command.HasField("desired"):
            facts.power = ServerFacts.ABSENT
        self._book.set_server(facts)

    def _publish_foreign(self, uid: str, world: World) -> None:
        """Say of a server that no command speaks of what the hypervisor knows; it is not touched."""
        if world.domain is None:
            self._book.drop(uid)
            return
        self._book.set_server(facts_of(uid, None, world.domain, settled=False, reboots=0, conditions=[], client_addresses=[]))

    def _port_changed(self, port_uid: str) -> None:
        if (uid := self._ports.server_of(port_uid)) is None:
            return
        # A start that fails unplugs its ports again: to wake for that would be to begin anew each time, whatever the back-off says.
        memory, command = self._memory.get(uid), self._commands.held.get(uid)
        if (
            memory is None
            or memory.ports_lacking != self._ports.lacking(command)
            or (memory.process is not None and memory.unplugged.what != self._ports.unplugged(command))
        ):
            self.wake(uid)

    def _uids(self) -> list[str]:
        return list({*self._commands.held, *self._kept.uids(), *self._memory})

    async def _list(self) -> None:
        """Have all servers looked at: those that are commanded, those that are kept of, those that the hypervisor knows."""
        uids = {*self._uids(), *await self._hypervisor.list_uids()}
        if marked := await self._hypervisor.forbid_autostart():
            log.warning("somebody had the hypervisor start servers by itself, which it no longer will", servers=marked)
        if not self._listing.told and self._listing.left is None:
            self._listing.left = set(uids)
            self._tell_when_known()
        for uid in uids:
            self.wake(uid)

    def _looked_at(self, uid: str) -> None:
        if self._listing.left is not None:
            self._listing.left.discard(uid)
            self._tell_when_known()

    def _tell_when_known(self) -> None:
        if self._listing.left is not None and not self._listing.left:
            self._listing.left, self._listing.told = None, True
            self._book.list_is_known("compute")


def _given(definition: Definition | None) -> Definition:
    assert definition is not None, "plan() asks for a definition only where one was made"
    return definition
