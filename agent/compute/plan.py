"""Decides the next step that moves one server of this host towards what was asked; it does nothing itself.

After each step the world is looked at again, so that a crash in between needs no memory but what World says is kept on disk.
"""

from dataclasses import dataclass

from agent.compute.driver import Domain, Process

# A guest that is asked to stop gets so long; then its power is cut.
GRACE_S = 60.0
# A guest that is still booting misses its power button: it is pressed again, sooner at first.
ASK_AGAIN_FIRST_S = 2.0
ASK_AGAIN_MOST_S = 10.0
# A guest that ran so long is started again at once when it ends; one that ended sooner waits, twice as long each time.
STEADY_S = 600.0
RESTART_FIRST_S = 1.0
RESTART_MOST_S = 300.0

# A guest that stands still because a disk did not take what it wrote tries again that often; it runs if it does so for a moment.
TRY_DISK_S = 10.0
DISK_TRIED_S = 2.0
STANDS_STILL = "the guest stands still: a disk does not take what it writes"

# Why nothing can be done at present.
PROCESS_LINGERS, RESTARTING, STARTING, PORTS_NOT_READY, DISK_NOT_OWNED, DISK_REFUSES, STOPPING = (
    "PROCESS_LINGERS",
    "RESTARTING",
    "STARTING",
    "PORTS_NOT_READY",
    "DISK_NOT_OWNED",
    "DISK_REFUSES",
    "STOPPING",
)


@dataclass(frozen=True)
class Asked:
    """What shall be; `digest` is that of the definition."""

    digest: str
    running: bool
    reboots: int
    hard: bool


@dataclass(frozen=True)
class Reboots:
    """What is kept of reboots: `process` is the one that was found when `begun` (0: none is under way) began."""

    done: int
    begun: int = 0
    process: Process | None = None


@dataclass(frozen=True)
class World:
    """What is so. What is None was not looked at or is not there, as said."""

    domain: Domain | None = None
    # None: nothing is kept yet.
    reboots: Reboots | None = None
    # The process whose storage clients are kept, and whether it is proven gone; None: none is kept.
    clients_of: Process | None = None
    clients_gone: bool = False
    # Why a port is not in force; empty: all are.
    ports_lacking: str = ""
    # Why a disk is not this server's, empty: all are; None: not looked at.
    disks_foreign: str | None = None
    # The guest files are written as asked.
    guest_files: bool = False
    # Since when the process that runs was asked to stop, and last; None: it was not.
    asked_first_s: float | None = None
    asked_last_s: float | None = None
    # How long a guest that ended by itself still waits.
    restart_in_s: float = 0.0
    # How long a guest that stands still again is left to do so, since it tried last.
    try_disk_in_s: float = 0.0


@dataclass(frozen=True)
class Define:
    """Tell the hypervisor what the server is."""


@dataclass(frozen=True)
class WriteGuestFiles:
    """Write what the guest may read of itself."""


@dataclass(frozen=True)
class KeepReboots:
    """Keep on disk what is done of reboots and what is under way."""

    reboots: Reboots


@dataclass(frozen=True)
class CheckDisks:
    """Read whose the disks are."""


@dataclass(frozen=True)
class BreakLocks:
    """Take the locks of a dead process from the disks, and forget its clients."""


@dataclass(frozen=True)
class Start:
    """Start a process that waits."""


@dataclass(frozen=True)
class KeepClients:
    """Keep on disk which storage clients the process has, before it may write."""

    process: Process


@dataclass(frozen=True)
class Resume:
    """Let the process run."""


@dataclass(frozen=True)
class AskToStop:
    """Press the power button."""


@dataclass(frozen=True)
class CutPower:
    """End the process."""


@dataclass(frozen=True)
class Undefine:
    """Have the hypervisor forget the server."""


@dataclass(frozen=True)
class ForgetKept:
    """Remove what is kept of the server beside its command: reboots, clients, guest files, console log."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be done now; `again_s` says when to look, None: when something changes."""

    reason: str
    message: str
    again_s: float | None = None


Step = (
    Define
    | WriteGuestFiles
    | KeepReboots
    | CheckDisks
    | BreakLocks
    | Start
    | KeepClients
    | Resume
    | AskToStop
    | CutPower
    | Undefine
    | ForgetKept
    | Wait
)


def plan(asked: Asked | None, world: World) -> Step | None:
    """Return the next step, or None if all is as asked; `asked` None: nothing of the server shall be here."""
    process = world.domain.process if world.domain else None
    if process is None and world.clients_of is not None:
        if world.clients_gone:
            return BreakLocks()
        return Wait(PROCESS_LINGERS, f"the process {world.clients_of.pid} has not ended yet", 1.0)
    if asked is None:
        return _towards_nothing(world, process)
    if world.reboots is None:
        # What was rebooted before the server came to this host is done.
        return KeepReboots(Reboots(asked.reboots))
    if world.domain is None or world.domain.digest != asked.digest:
        return Define()
    if not world.guest_files:
        return WriteGuestFiles()
    if not asked.running:
        return _towards_off(asked, world, process, world.reboots)
    return _towards_running(asked, world, process, world.reboots)


def restart_delay_s(ended_early: int) -> float:
    """Return how long a guest waits that ended by itself, early for the `ended_early`th time in a row; 0 times: not at all."""
    if ended_early == 0:
        return 0.0
    return float(min(RESTART_MOST_S, RESTART_FIRST_S * 2.0 ** min(ended_early - 1, 20)))


def _towards_nothing(world: World, process: Process | None) -> Step | None:
    if process is not None:
        return CutPower()
    if world.domain is not None:
        return Undefine()
    if world.reboots is not None or world.guest_files:
        return ForgetKept()
    return None


def _towards_off(asked: Asked, world: World, process: Process | None, reboots: Reboots) -> Step | None:
    if process is not None:
        return _stop(asked, world)
    if reboots.done < asked.reboots or reboots.begun:
        # It is off, as a reboot would have it for a moment, and that is what was asked last.
        return KeepReboots(Reboots(max(asked.reboots, reboots.done)))
    return None


def _towards_running(asked: Asked, world: World, process: Process | None, reboots: Reboots) -> Step | None:
    if reboots.done < asked.reboots:
        if reboots.begun < asked.reboots:
            return KeepReboots(Reboots(reboots.done, asked.reboots, process))
        if process is not None and process == reboots.process:
            return _stop(asked, world)
    if process is None:
        if world.restart_in_s > 0 and not reboots.begun:
            return Wait(RESTARTING, f"the guest ended by itself; it is started again in {world.restart_in_s:.0f} s", world.restart_in_s)
        return _start(world)
    if world.domain is not None and world.domain.starting:
        # Who has its disks open is not known before they are, and the hypervisor may give it up instead.
        return Wait(STARTING, "its process is being set up", 1.0)
    if world.clients_of != process:
        return KeepClients(process)
    if world.domain is not None and (world.domain.paused or world.domain.halted):
        return Wait(DISK_REFUSES, STANDS_STILL, world.try_disk_in_s) if world.domain.halted and world.try_disk_in_s > 0 else Resume()
    if world.try_disk_in_s > TRY_DISK_S - DISK_TRIED_S:
        return Wait(DISK_REFUSES, STANDS_STILL, world.try_disk_in_s - TRY_DISK_S + DISK_TRIED_S)
    if reboots.begun:
        return KeepReboots(Reboots(reboots.begun))
    return None


def _start(world: World) -> Step:
    if world.ports_lacking:
        return Wait(PORTS_NOT_READY, world.ports_lacking)
    if world.disks_foreign is None:
        return CheckDisks()
    if world.disks_foreign:
        return Wait(DISK_NOT_OWNED, world.disks_foreign, 1.0)
    return Start()


def _stop(asked: Asked, world: World) -> Step:
    if asked.hard:
        return CutPower()
    if world.asked_first_s is None or world.asked_last_s is None:
        return AskToStop()
    if world.asked_first_s >= GRACE_S:
        return CutPower()
    pause_s = min(ASK_AGAIN_MOST_S, max(ASK_AGAIN_FIRST_S, world.asked_first_s - world.asked_last_s))
    if world.asked_last_s >= pause_s:
        return AskToStop()
    left_s = GRACE_S - world.asked_first_s
    again_s = min(left_s, pause_s - world.asked_last_s)
    return Wait(STOPPING, f"the guest was asked to stop; in {left_s:.0f} s its power is cut", again_s)
