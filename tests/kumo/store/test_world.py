"""Tables and watches on a real etcd that is cut off, killed, frozen, compacted and restarted underneath them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.etcd import Member, cluster
from tests.kumo.store.world import World

_WHO = st.integers(0, 1)
_NAME = st.sampled_from(["n0", "n1", "n2", "n3"])
_STEP_S = 60.0


def machine(loop: asyncio.AbstractEventLoop, member: Member) -> type[RuleBasedStateMachine]:
    """Return a machine whose rules run on `loop`, which belongs to another thread."""

    class Machine(RuleBasedStateMachine):
        def call(self, work: Coroutine[Any, Any, None]) -> None:
            asyncio.run_coroutine_threadsafe(work, loop).result(_STEP_S)

        @initialize()
        def start(self) -> None:
            self.world = World(member)
            self.call(self.world.start())

        @rule(who=_WHO, name=_NAME)
        def create(self, who: int, name: str) -> None:
            self.call(self.world.create(who, name))

        @rule(who=_WHO, name=_NAME)
        def update(self, who: int, name: str) -> None:
            self.call(self.world.update(who, name))

        @rule(who=_WHO, name=_NAME)
        def report(self, who: int, name: str) -> None:
            self.call(self.world.report(who, name))

        @rule(who=_WHO, name=_NAME)
        def delete(self, who: int, name: str) -> None:
            self.call(self.world.delete(who, name))

        @rule(who=_WHO, number=st.integers(0, 2))
        def create_family(self, who: int, number: int) -> None:
            self.call(self.world.create_family(who, [f"f{number}a", f"f{number}b", f"f{number}c"]))

        @rule(who=_WHO, page_size=st.integers(1, 3))
        def walk(self, who: int, page_size: int) -> None:
            self.call(self.world.walk(who, page_size))

        @rule(which=_WHO, where=_WHO)
        def wander(self, which: int, where: int) -> None:
            self.call(self.world.wander(which, where))

        @rule(who=_WHO)
        def cut(self, who: int) -> None:
            loop.call_soon_threadsafe(self.world.processes[who].proxy.cut)

        @rule(who=_WHO)
        def break_connections(self, who: int) -> None:
            loop.call_soon_threadsafe(self.world.processes[who].proxy.break_all)

        @rule(who=_WHO)
        def hold_answers(self, who: int) -> None:
            loop.call_soon_threadsafe(self.world.processes[who].proxy.hold_answers)

        @rule(who=_WHO, byte_count=st.integers(100, 4000))
        def cut_after(self, who: int, byte_count: int) -> None:
            loop.call_soon_threadsafe(self.world.processes[who].proxy.cut_after, byte_count)

        @rule()
        def heal(self) -> None:
            loop.call_soon_threadsafe(self.world.heal)

        @rule(who=_WHO)
        def restart_process(self, who: int) -> None:
            self.call(self.world.restart_process(who))

        @rule()
        def restart_etcd(self) -> None:
            self.call(self.world.restart_etcd())

        @rule()
        def freeze_etcd(self) -> None:
            self.call(self.world.freeze_etcd())

        @rule(is_gentle=st.booleans())
        def compact(self, is_gentle: bool) -> None:
            self.call(self.world.compact(is_gentle=is_gentle))

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
    with cluster() as one:
        chosen = settings(
            max_examples=12, stateful_step_count=20, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
        )
        made = machine(asyncio.get_running_loop(), one.members[0])
        await asyncio.to_thread(run_state_machine_as_test, made, settings=chosen)
