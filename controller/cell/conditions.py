"""Builds the conditions of a status so that `since` changes only when what is said changes. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from kumo.api.type.v1.condition_pb2 import Condition

_STATUS = {True: Condition.TRUE, False: Condition.FALSE, None: Condition.STATUS_UNSPECIFIED}


@dataclass(frozen=True)
class Said:
    """One condition without its times. `why` is one constant word; `operator_message` is for those who run the cloud.

    `holds` None: nobody knows now.
    """

    type: str
    holds: bool | None
    why: str
    message: str = ""
    fix: str = ""
    operator_message: str = ""


def conditions(before: Iterable[Condition], said: Iterable[Said], generation: int, now: datetime) -> list[Condition]:
    """Return `said` as conditions, in the order said, with the times of `before` where nothing but the wording changed."""
    known = {condition.type: condition for condition in before}
    return [condition(known.get(one.type), one, generation, now) for one in said]


def condition(before: Condition | None, said: Said, generation: int, now: datetime) -> Condition:
    made = Condition(
        type=said.type,
        status=_STATUS[said.holds],
        reason=said.why,
        message=said.message,
        fix=said.fix,
        operator_message=said.operator_message,
        observed_generation=generation,
    )
    if before is not None and (before.status, before.reason) == (made.status, made.reason):
        made.since.CopyFrom(before.since)
    else:
        made.since.FromDatetime(now)
    return made


def from_agent(reported: Condition) -> Said:
    """Return what an agent said of a thing, to be said on."""
    return Said(
        reported.type, reported.status == Condition.TRUE, reported.reason, reported.message, reported.fix, reported.operator_message
    )
