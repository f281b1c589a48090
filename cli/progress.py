"""Decides, from one version of a resource, which steps of its way are done, whether the way has ended, and how. Pure."""

from dataclasses import dataclass, field
from typing import Any

from cli.advice import short
from cli.failure import Exit, Failure
from cli.nouns import Noun

_UNDERWAY = frozenset(
    {
        "STATE_UNSPECIFIED",
        "PENDING",
        "CREATING",
        "STARTING",
        "STOPPING",
        "REBOOTING",
        "BINDING",
        "UPLOADING",
        "IMPORTING",
        "ATTACHING",
        "DETACHING",
        "DELETING",
        "JOINING",
    }
)
_TRUE, _FALSE = 1, 2
# Conditions that are there only while they do not hold: each keeps the resource from every step.
_KEEP_ALL = ("Fresh", "HostAnswers", "GoesOn", "Gone")
_RUNNING_ONLY = frozenset({"Started", "GuestReady"})


@dataclass(frozen=True)
class Progress:
    """How far a resource is: the steps done in order, what it waits for, whether it is there, or why it never will be."""

    done_steps: tuple[str, ...] = ()
    waiting_for: str = ""
    obstacle: str = ""
    fix: str = ""
    reached: bool = False
    failure: Failure | None = field(default=None)


def progress(noun: Noun, resource: Any, until: str) -> Progress:
    """Return how far `resource` is on its way to `until`: `settled`, or a condition's type (`ready` means GuestReady)."""
    status = resource.status
    state = status.DESCRIPTOR.enum_types_by_name.get("State") or type(resource).DESCRIPTOR.enum_types_by_name["State"]
    name = state.values_by_number[status.state].name
    wanted = condition_type(noun, until)
    conditions = {condition.type: condition for condition in status.conditions}
    steps = [*noun.waits_for, *([wanted] if wanted and wanted not in noun.waits_for else [])]
    done = tuple(step for step in steps if step in conditions and conditions[step].status == _TRUE)
    if name == "FAILED":
        return Progress(done, failure=_why(resource, conditions.values()))
    if wanted in _RUNNING_ONLY and _shall_be_off(resource):
        own_id = resource.name.rsplit("/", 1)[-1]
        off = Failure(f'"{own_id}" will not be {until}', "it is stopped", f"kumo server start {own_id}", Exit.CONFLICT)
        return Progress(done, failure=off)
    observed = status.observed_generation >= resource.generation or not noun.waits_for
    # An old report proves nothing of how it is now.
    is_stale = "Fresh" in conditions and conditions["Fresh"].status == _FALSE
    reached = observed and not is_stale and (wanted in done if wanted else name not in _UNDERWAY)
    missing = next((step for step in steps if step not in done), "")
    obstacle, fix = _obstacle(conditions, missing)
    return Progress(done, missing, obstacle, fix, reached)


def _obstacle(conditions: dict[str, Any], missing: str) -> tuple[str, str]:
    """Return what keeps the step `missing`, or what keeps all of it, and what helps; operators are told more than tenants."""
    for kind in (*_KEEP_ALL, missing):
        found = conditions.get(kind)
        if found is not None and found.status == _FALSE and found.message:
            return found.operator_message or found.message, found.fix
    return "", ""


def condition_type(noun: Noun, until: str) -> str:
    """Return the condition's type that `until` names; empty for `settled` and `deleted`. Raises Failure for what it never has."""
    known = (*noun.waits_for, *noun.conditions)
    if until in ("settled", "deleted"):
        return ""
    found = next((kind for kind in known if until in (kind, kind.lower())), "")
    if until == "ready" and not found:
        found = "GuestReady" if "GuestReady" in known else ""
    if not found:
        there = ", ".join(["settled", "deleted", *(["ready"] if "GuestReady" in known else []), *known])
        raise Failure(
            f'a {noun.singular} cannot be waited for until it is "{until}"',
            f"there are: {there}",
            "--for=settled, or leave it out",
            Exit.USAGE,
        )
    return found


def _shall_be_off(resource: Any) -> bool:
    """True of a server that was stopped, or is being stopped."""
    power = resource.spec.DESCRIPTOR.fields_by_name.get("power")
    return power is not None and power.enum_type.values_by_number[resource.spec.power].name == "OFF"


def _why(resource: Any, conditions: Any) -> Failure:
    bad = next((condition for condition in conditions if condition.status == _FALSE and condition.message), None)
    what, look = f"{short(resource.name)} failed", f"kumo event list --for {short(resource.name)}"
    if bad is None:
        return Failure(what, "no condition says why", look)
    return Failure(what, bad.operator_message or bad.message, bad.fix or look, Exit.FAILED, bad.reason)
