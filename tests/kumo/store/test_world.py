"""Tables and watches on a real etcd that is cut off, killed, frozen, compacted and restarted underneath them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.etcd import Member, cluster
from tests.kumo.store.world import World

_WHO = st.integers(0, 1)
_NAME = st.sampled_from(["n0", "n1", "n2"])
_ACT = st.tuples(st.sampled_from(["create", "update", "report", "delete"]), _NAME)
_ACTS = st.lists(_ACT, min_size=1, max_size=4)
# Every wait inside a step has a limit of its own, and so do the repetitions: this is for a step that waits without one.
_STEP_S = 60.0


def machine(loop: asyncio.AbstractEventLoop, member: Member) -> type[RuleBasedStateMachine]:
    """Return a machine whose rules run on `loop`, which belongs to another thread."""

    class Machine(RuleBasedStateMachine):
        def call(self, work: Coroutine[Any, Any, None]) -> None:
            step = asyncio.run_coroutine_threadsafe(work, loop)
            try:
                step.result(_STEP_S)
            except TimeoutError as error:
                # Not as it is: asyncio makes a new TimeoutError of one that leaves a thread, without where it was and why.
                said = asyncio.run_coroutine_threadsafe(self.world.standing(), loop).result(_STEP_S)
                raise AssertionError(f"a step waited in vain\n{said}") from error

        @initialize()
        def start(self) -> None:
            self.world = World(member)
            self.call(self.world.start())

        @rule(who=_WHO, act=_ACT)
        def act(self, who: int, act: tuple[str, str]) -> None:
            self.call(self.world.act(who, *act))

        @rule(who=_WHO, number=st.integers(0, 2))
        def create_family(self, who: int, number: int) -> None:
            self.call(self.world.create_family(who, [f"f{number}a", f"f{number}b", f"f{number}c"]))

        @rule(who=_WHO, acts=_ACTS, is_restarted=st.booleans(), is_compacted=st.booleans())
        def while_away(self, who: int, acts: list[tuple[str, str]], is_restarted: bool, is_compacted: bool) -> None:
            self.call(self.world.while_away(who, acts, is_restarted=is_restarted, is_compacted=is_compacted))

        @rule(who=_WHO, act=_ACT, is_read=st.booleans(), is_cut=st.booleans())
        def lose_answers(self, who: int, act: tuple[str, str], is_read: bool, is_cut: bool) -> None:
            self.call(self.world.lose_answers(who, *act, is_read=is_read, is_cut=is_cut))

        @rule(who=_WHO, acts=_ACTS, is_killed=st.booleans())
        def shake(self, who: int, acts: list[tuple[str, str]], is_killed: bool) -> None:
            self.call(self.world.shake([(who, *act) for act in acts], is_killed=is_killed))

        @rule(who=_WHO, page_size=st.integers(1, 3))
        def walk(self, who: int, page_size: int) -> None:
            self.call(self.world.walk(who, page_size))

        @rule(which=_WHO, where=_WHO)
        def wander(self, which: int, where: int) -> None:
            self.call(self.world.wander(which, where))

        @rule(who=_WHO)
        def break_connections(self, who: int) -> None:
            loop.call_soon_threadsafe(self.world.processes[who].proxy.break_all)

        @rule()
        def compact(self) -> None:
            self.call(self.world.compact())

        @invariant()
        def nobody_crashed(self) -> None:
            for watcher in self.world.watchers if hasattr(self, "world") else ():
                assert watcher.task is None or not watcher.task.done() or watcher.task.exception() is None

        def teardown(self) -> None:
            if hasattr(self, "world"):
                try:
                    self.call(self.world.check())
                finally:
                    self.call(self.world.stop())

    return Machine


async def test_mirrors_lists_and_watches_are_exact_whatever_happens_to_etcd() -> None:
    # It is killed often, and then needs not wait for other members to speak up: there are none.
    with cluster(extra=["--heartbeat-interval=20", "--election-timeout=200"]) as one:
        chosen = settings(
            max_examples=12,
            stateful_step_count=10,
            deadline=None,
            database=None,
            # No shrinking: it would take minutes, and the steps of a failure are printed.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        made = machine(asyncio.get_running_loop(), one.members[0])
        await asyncio.to_thread(run_state_machine_as_test, made, settings=chosen)
