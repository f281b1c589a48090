"""What holds of plan() whatever is asked, whatever fails and whenever the agent forgets what it had in memory."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.compute.driver import Domain, Process
from agent.compute.plan import (
    DISK_REFUSES,
    DISK_TRIED_S,
    GRACE_S,
    STARTING,
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
    Reboots,
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

MOST_STEPS = 60


@dataclass
class Host:
    """A host on which steps have their effects; `deaf` guests do not notice their power button."""

    deaf: bool = False
    owned: bool = True
    domain: Domain | None = None
    reboots: Reboots | None = None
    clients_of: Process | None = None
    guest_files: bool = False
    pids: int = 0
    clock_s: float = 0.0
    asked_first: float | None = None
    asked_last: float | None = None
    disks_foreign: str | None = None
    # The processes that ended by a reboot, and all that were let run.
    ran: list[Process] = field(default_factory=list)

    @property
    def process(self) -> Process | None:
        return self.domain.process if self.domain else None

    def world(self) -> World:
        return World(
            domain=self.domain,
            reboots=self.reboots,
            clients_of=self.clients_of,
            clients_gone=self.clients_of is not None and self.clients_of != self.process,
            disks_foreign=self.disks_foreign,
            guest_files=self.guest_files,
            asked_first_s=None if self.asked_first is None else self.clock_s - self.asked_first,
            asked_last_s=None if self.asked_last is None else self.clock_s - self.asked_last,
        )

    def take(self, step: Step, asked: Asked | None) -> None:
        self.disks_foreign = None
        match step:
            case Define():
                assert asked is not None
                self.domain = replace(self.domain or Domain("u", 1, (1, 1), ""), digest=asked.digest)
            case WriteGuestFiles():
                self.guest_files = True
            case KeepReboots(reboots):
                assert self.reboots is None or reboots.done >= self.reboots.done
                self.reboots = reboots
            case CheckDisks():
                self.disks_foreign = "" if self.owned else "another's"
            case BreakLocks():
                assert self.clients_of is not None and self.clients_of != self.process
                self.clients_of = None
            case Start():
                assert self.domain is not None and self.process is None and self.owned
                assert self.clients_of is None, "the dead guest's locks are still there"
                self.pids += 1
                self.domain = replace(self.domain, process=Process("boot", self.pids, self.pids), paused=True)
                self.asked_first = self.asked_last = None
            case KeepClients(process):
                self.clients_of = process
            case Resume():
                assert self.domain is not None and self.process is not None
                assert self.clients_of == self.process, "it could write before its clients were kept"
                self.ran.append(self.process)
                self.domain = replace(self.domain, paused=False)
            case AskToStop():
                self.asked_first = self.clock_s if self.asked_first is None else self.asked_first
                self.asked_last = self.clock_s
                if not self.deaf:
                    self.end_process()
            case CutPower():
                self.end_process()
            case Undefine():
                assert self.process is None
                self.domain = None
            case ForgetKept():
                self.reboots, self.guest_files = None, False
            case Wait(_, _, again_s):
                assert again_s is not None
                self.clock_s += again_s

    def end_process(self) -> None:
        if self.domain is not None:
            self.domain = replace(self.domain, process=None, paused=False)
        self.asked_first = self.asked_last = None

    def forget(self) -> None:
        """Lose what an agent that is started anew does not know."""
        self.asked_first = self.asked_last = self.disks_foreign = None
        self.guest_files = False

    def settle(self, asked: Asked | None) -> list[Step]:
        """Take steps until there is none, and return them."""
        taken: list[Step] = []
        while (step := plan(asked, self.world())) is not None:
            assert len(taken) < MOST_STEPS, f"does not settle: {taken[-5:]}"
            taken.append(step)
            self.take(step, asked)
        return taken


ASKED = st.builds(Asked, digest=st.sampled_from(["d1", "d2"]), running=st.booleans(), reboots=st.integers(0, 3), hard=st.booleans())
HOSTS = st.builds(Host, deaf=st.booleans())


def is_so(host: Host, asked: Asked | None) -> bool:
    if asked is None:
        return host.domain is None and host.reboots is None and host.clients_of is None
    running = host.process is not None and host.domain is not None and not host.domain.paused
    return host.domain is not None and host.domain.digest == asked.digest and running == asked.running


@given(host=HOSTS, wishes=st.lists(st.none() | ASKED, min_size=1, max_size=6))
def test_whatever_is_asked_becomes_so_and_then_rests(host: Host, wishes: list[Asked | None]) -> None:
    for asked in wishes:
        host.settle(asked)
        assert is_so(host, asked)
        assert plan(asked, host.world()) is None


@given(host=HOSTS, wishes=st.lists(st.none() | ASKED, min_size=1, max_size=4), data=st.data())
def test_it_becomes_so_through_crashes_of_agent_and_guest(host: Host, wishes: list[Asked | None], data: st.DataObject) -> None:
    for asked in wishes:
        for _ in range(data.draw(st.integers(0, 12))):
            step = plan(asked, host.world())
            if step is None:
                break
            host.take(step, asked)
            match data.draw(st.sampled_from(["", "", "", "agent", "guest"])):
                case "agent":
                    host.forget()
                case "guest":
                    host.end_process()
                case _:
                    pass
    host.settle(wishes[-1])
    assert is_so(host, wishes[-1])


@given(deaf=st.booleans(), hard=st.booleans(), crashes=st.lists(st.integers(0, 20), max_size=4))
@settings(max_examples=200)
def test_a_reboot_happens_exactly_once_through_crashes_of_the_agent(deaf: bool, hard: bool, crashes: list[int]) -> None:
    host = Host(deaf=deaf)
    asked = Asked("d", running=True, reboots=0, hard=hard)
    host.settle(asked)
    before = host.process
    asked = replace(asked, reboots=1)
    for steps in crashes:
        for _ in range(steps):
            if (step := plan(asked, host.world())) is not None:
                host.take(step, asked)
        host.forget()
    host.settle(asked)
    assert before is not None and host.process not in (None, before)
    assert host.ran == [before, host.process]
    assert host.reboots == Reboots(1)


@given(asked=ASKED, host=HOSTS)
def test_what_was_rebooted_elsewhere_is_not_rebooted_here(asked: Asked, host: Host) -> None:
    host.settle(replace(asked, running=True))
    assert len(host.ran) == 1
    assert host.reboots == Reboots(asked.reboots)


@given(asked=ASKED, wishes=st.lists(ASKED, max_size=3))
def test_nothing_starts_on_anothers_disk(asked: Asked, wishes: list[Asked]) -> None:
    host = Host(owned=False)
    for wish in [*wishes, replace(asked, running=True)]:
        for _ in range(20):
            step = plan(wish, host.world())
            assert not isinstance(step, Start | Resume)
            if step is not None:
                host.take(step, wish)
    assert host.process is None
    host.owned = True
    host.settle(replace(asked, running=True))
    assert host.process is not None


def test_a_deaf_guest_has_its_power_cut_after_its_grace_and_not_before() -> None:
    host = Host(deaf=True)
    host.settle(Asked("d", True, 0, False))
    host.clock_s = 0.0
    steps = host.settle(Asked("d", False, 0, False))
    assert host.clock_s == GRACE_S
    assert sum(isinstance(step, AskToStop) for step in steps) >= 3
    assert isinstance(steps[-2], CutPower) and isinstance(steps[-1], BreakLocks)


@given(ended_early=st.integers(1, 100))
def test_the_pause_before_a_restart_grows_and_has_an_end(ended_early: int) -> None:
    assert restart_delay_s(0) == 0
    assert restart_delay_s(ended_early) <= restart_delay_s(ended_early + 1) <= 300


def test_a_process_that_is_being_set_up_is_left_alone_until_its_disks_are_open_but_not_when_it_shall_go() -> None:
    process = Process("boot", 1, 1)
    domain = Domain("u", 1, (1, 1), "d1", process, starting=True)
    world = World(domain, Reboots(0), guest_files=True)
    asked = Asked("d1", running=True, reboots=0, hard=True)
    said = plan(asked, world)
    assert isinstance(said, Wait) and said.reason == STARTING and said.again_s is not None
    assert plan(asked, replace(world, domain=replace(domain, starting=False, paused=True))) == KeepClients(process)
    for other in (None, replace(asked, running=False)):
        assert plan(other, world) == CutPower()


@given(st.floats(0.1, TRY_DISK_S))
def test_a_guest_that_stands_still_at_its_disk_tries_again_now_and_then_and_can_be_stopped(left_s: float) -> None:
    process = Process("boot", 1, 1)
    domain = Domain("u", 1, (1, 1), "d1", process, halted=True)
    world = World(domain, Reboots(0), clients_of=process, guest_files=True, try_disk_in_s=left_s)
    asked = Asked("d1", running=True, reboots=0, hard=False)
    said = plan(asked, world)
    assert isinstance(said, Wait) and (said.reason, said.again_s) == (DISK_REFUSES, left_s)
    assert plan(asked, replace(world, try_disk_in_s=0.0)) == Resume()
    assert plan(replace(asked, running=False, hard=True), world) == CutPower()
    # It is not believed to run before it did so for a moment.
    again = plan(asked, replace(world, domain=replace(domain, halted=False)))
    assert (again is not None) == (left_s > TRY_DISK_S - DISK_TRIED_S)
