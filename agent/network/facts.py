"""Keeps what is so of each port, and reports it when it changed. Decides nothing about ports."""

from collections.abc import Callable, Collection

from google.protobuf.timestamp_pb2 import Timestamp

from kumo.api.agent.v1.network_pb2 import PortFacts
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.api.type.v1.stamp_pb2 import Stamp
from kumo.clock import Clock, SystemClock
from kumo.log import get_logger

log = get_logger(__name__)

BOUND = "Bound"


class Reports:
    """The facts of the ports of a host."""

    def __init__(self, on_facts: Callable[[PortFacts], None], clock: Clock | None = None) -> None:
        self._on_facts = on_facts
        self._clock = clock or SystemClock()
        self._facts: dict[str, PortFacts] = {}

    def of(self, uid: str, stamp: Stamp) -> PortFacts:
        """Return what was last found, held under `stamp`."""
        facts = PortFacts()
        facts.CopyFrom(self._facts.get(uid, PortFacts(uid=uid)))
        facts.held.CopyFrom(stamp)
        return facts

    def forget(self, uid: str) -> None:
        self._facts.pop(uid, None)

    def forget_all_but(self, uids: Collection[str]) -> None:
        for uid in self._facts.keys() - set(uids):
            self.forget(uid)

    def bound(self, uid: str, stamp: Stamp, *, plugged: bool) -> None:
        self._set(uid, stamp, PortFacts.BOUND, plugged, Condition(type=BOUND, status=Condition.TRUE))

    def unbound(self, uid: str, stamp: Stamp, reason: str, message: str) -> None:
        self._set(uid, stamp, PortFacts.UNBOUND, False, Condition(type=BOUND, status=Condition.FALSE, reason=reason, message=message))

    def absent(self, uid: str, stamp: Stamp) -> None:
        self._set(uid, stamp, PortFacts.ABSENT, False, Condition(type=BOUND, status=Condition.FALSE, reason="REMOVED"))

    def failed(self, uid: str, stamp: Stamp, reason: str, message: str) -> None:
        """Say that it could not be made so; what is in force stays as it was last found."""
        known = self._facts.get(uid, PortFacts())
        if known.binding == PortFacts.BOUND:
            condition = Condition(type=BOUND, status=Condition.TRUE, reason=reason, message=message)
            self._set(uid, stamp, PortFacts.BOUND, known.plugged, condition)
        else:
            self.unbound(uid, stamp, reason, message)

    def _set(self, uid: str, stamp: Stamp, binding: "PortFacts.Binding.ValueType", plugged: bool, condition: Condition) -> None:
        known = self._facts.get(uid)
        before = known.conditions[0] if known is not None else None
        condition.since.CopyFrom(before.since if before is not None and before.status == condition.status else self._now())
        condition.observed_generation = stamp.generation
        facts = PortFacts(uid=uid, held=stamp, binding=binding, plugged=plugged, conditions=[condition])
        if facts != known:
            if known is None or (known.binding, known.plugged) != (binding, plugged):
                name = PortFacts.Binding.Name(binding)
                log.info("port changed", port=uid, binding=name, plugged=plugged, reason=condition.reason)
            self._facts[uid] = facts
            self._on_facts(facts)

    def _now(self) -> Timestamp:
        now = Timestamp()
        now.FromDatetime(self._clock.now())
        return now
