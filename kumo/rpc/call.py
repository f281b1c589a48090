"""Who is calling and until when, as a context variable of the call being served: clients pass it on, domain code may ask for it."""

import time
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

REQUEST_ID_KEY = "x-request-id"


class Audience(IntEnum):
    """How much a principal may see; the numbers are those of kumo.api.Audience."""

    TENANT = 1
    OPERATOR = 2
    INTERNAL = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `projects` are the resource names of the projects it may act in; None means all."""

    name: str
    audience: Audience
    projects: frozenset[str] | None = None

    def may_act_in(self, project: str) -> bool:
        return self.projects is None or project in self.projects


@dataclass(frozen=True, slots=True)
class Call:
    """One call being served. `deadline` is on time.monotonic(); None when the caller set none."""

    principal: Principal
    request_id: str
    deadline: float | None = None

    def remaining_s(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.monotonic()


CALL: ContextVar[Call | None] = ContextVar("kumo_call", default=None)


def current_call() -> Call:
    """Return the call being served. Raises LookupError outside of one."""
    call = CALL.get()
    if call is None:
        raise LookupError("no call is being served here")
    return call


def current_principal() -> Principal:
    return current_call().principal
