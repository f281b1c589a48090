"""Decides what the caller of the call being served may reach: its own projects, and nothing else that lies in a project.

What a caller may not reach does not exist for it. Which methods and fields it may use is the interceptor's.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kumo.errors import NotFound
from kumo.names import project_of
from kumo.rpc.call import Audience, Principal, current_principal

ANY_PROJECT = "projects/-"
# Where the events of what lies in no project are.
SYSTEM_PROJECT = "projects/system"


@dataclass(frozen=True)
class Scope:
    """What a list or a watch covers: names that begin with `prefix` and, where `may_see` is set, fulfil it; `text` says all of it."""

    prefix: str
    may_see: Callable[[str], bool] | None
    text: str


def may_reach(name: str, principal: Principal) -> bool:
    project = project_of(name)
    if not project:
        return True
    if project == SYSTEM_PROJECT:
        return principal.audience >= Audience.OPERATOR
    return principal.may_act_in(project)


def require_reach(name: str, noun: str, *, field: str = "name") -> str:
    """Return `name`. Raises NotFound, the same as for what is not there, if it lies in a project that is not the caller's."""
    if not may_reach(name, current_principal()):
        raise not_found(name, noun, field=field)
    return name


def not_found(name: str, noun: str, *, field: str = "name") -> NotFound:
    return NotFound(
        f"{noun.upper()}_NOT_FOUND", f"there is no {noun} {name}", field=field, fix=f"list the {noun}s that there are", name=name
    )


def scope(parent: str, collection: str, principal: Principal) -> Scope:
    """Return what `parent` covers for `principal`: one project, or with projects/- all that it may see.

    Raises NotFound for a project that is not the caller's.
    """
    if not parent:
        return Scope(f"{collection}/", None, collection)
    if parent != ANY_PROJECT:
        if not may_reach(f"{parent}/", principal):
            raise not_found(parent, "project", field="parent")
        return Scope(f"{parent}/{collection}/", None, f"{parent}/{collection}")
    if principal.projects is None and principal.audience >= Audience.OPERATOR:
        return Scope("projects/", None, ANY_PROJECT)
    projects = "*" if principal.projects is None else ",".join(sorted(principal.projects))
    return Scope("projects/", lambda name: may_reach(name, principal), f"{ANY_PROJECT} of {principal.audience} {projects}")
