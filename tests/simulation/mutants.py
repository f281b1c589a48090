"""Faults that somebody might once make, each as a change of one line of one function; the simulation must notice every one of them."""

import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import agent.stamps
import controller.cell.ledger
import controller.region.cells.ends
import controller.region.standard
import kumo.loop
import kumo.store.commit
import kumo.store.group
import kumo.store.lease
import kumo.store.replica
import kumo.store.stream
import kumo.store.txn


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in the source of `owner.function`, and `new` in its place is wrong. `play` is where it shows soonest."""

    name: str
    owner: Any
    function: str
    old: str
    new: str
    play: str = "store"

    def apply(self) -> None:
        """Break the product in this process. Raises ValueError for a mutant that the product has outgrown."""
        source = textwrap.dedent(inspect.getsource(getattr(self.owner, self.function)))
        if source.count(self.old) != 1:
            raise ValueError(f"mutant {self.name!r}: {self.old!r} stands {source.count(self.old)} times in {self.function}")
        module = sys.modules[self.owner.__module__] if inspect.isclass(self.owner) else self.owner
        made: dict[str, Callable[..., Any]] = {}
        exec(compile(source.replace(self.old, self.new), f"<{self.name}>", "exec"), module.__dict__, made)  # noqa: S102  # it is ours
        setattr(self.owner, self.function, made[self.function])


MUTANTS = (
    Mutant("a lost answer taken for failure", kumo.store.commit, "_own_revision", "if witness is None or", "if True or"),
    Mutant("a change during work forgotten", kumo.loop.Loop, "add", "self._again.add(key)", "pass"),
    Mutant("a failure not retried", kumo.loop.Loop, "_failed", "self._schedule(key, now + delay_s)", "pass"),
    Mutant(
        "deletes not synthesised after a relist",
        kumo.store.replica.Replica,
        "difference",
        "sorted(self.entries.keys() | newer.entries.keys())",
        "sorted(newer.entries.keys())",
    ),
    Mutant(
        "resume from the header's revision",
        kumo.store.stream.WatchStream,
        "_dispatch",
        "await known.take(list(answer.events), answer.fragment)",
        "(await known.take(list(answer.events), answer.fragment), setattr(known, 'next_revision', answer.header.revision + 1))",
    ),
    Mutant("a write without the fence", kumo.store.txn.Txn, "__init__", "if fence is not None:", "if False:"),
    Mutant("half a revision delivered", kumo.store.stream.ResumingWatch, "take", "if fragment:", "if False:"),
    Mutant(
        "an unknown write retried blindly",
        kumo.store.commit.Committer,
        "commit",
        "result = await self.group.send(changes)",
        "result = Committed((await self.etcd.txn([], changes.operations)).header.revision)"
        " if is_repeated else await self.group.send(changes)",
    ),
    Mutant(
        "told committed with a group that was refused",
        kumo.store.group,
        "_refused",
        "if failed else None",
        "if failed else Committed(revision)",
    ),
    Mutant("two workers on one key", kumo.loop.Loop, "add", "elif key in self._busy:", "elif False:"),
    Mutant(
        "a lease counted from the reply",
        kumo.store.lease.KeptLease,
        "_read",
        "self._deadline = sent_at + answer.TTL",
        "self._deadline = self._clock.monotonic() + answer.TTL",
    ),
    Mutant(
        "an older generation applied",
        agent.stamps.Commands,
        "accept",
        "if number is not None:",
        'if number not in (None, "generation", "sequence", "term"):',
        "order",
    ),
    Mutant(
        "a tombstone dropped early",
        agent.stamps.Commands,
        "drop_old_tombstones",
        "if end.acknowledge_time.ToDatetime(oldest.tzinfo) > oldest or heard_s < _AT_LEAST_S:",
        "if False:",
        "order",
    ),
    Mutant(
        "usage freed twice",
        controller.region.cells.ends.Ends,
        "_free",
        "usage[kind] = usage.get(kind, 0) - amount",
        "usage[kind] = usage.get(kind, 0) - 2 * amount",
        "region",
    ),
    Mutant(
        "a delete answered from a mirror that is behind",
        controller.region.standard.Standard,
        "_is_current",
        "return await self.committed(txn, attempt)",
        "return True",
        "region",
    ),
)
