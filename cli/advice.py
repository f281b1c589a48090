"""Turns what the API advises into a command to paste, where one does just that. Pure; the API itself knows no command line."""

import re
from collections.abc import Mapping

from cli.nouns import NOUNS, Noun

_DELETE = re.compile(r"^delete (\S+?)( first)?$")


def noun_of(name: str) -> Noun | None:
    """Return the noun of a full resource name such as projects/default/servers/web1."""
    parts = name.split("/")
    return next((noun for noun in NOUNS.values() if len(parts) > 1 and noun.plural == parts[-2]), None)


def short(name: str) -> str:
    """Return a resource name as commands take it, such as server/web1."""
    noun = noun_of(name)
    return f"{noun.singular}/{name.rsplit('/', 1)[-1]}" if noun is not None else name


def command_for(reason: str, fix: str, metadata: Mapping[str, str]) -> str:
    """Return the command that does what `fix` says, or `fix` itself. `reason` and `metadata` are those of the error."""
    name = metadata.get("name", "")
    noun = noun_of(name)
    if reason.endswith("_NOT_FOUND") and noun is not None:
        return f"kumo {noun.singular} list"
    if fix == "start it" and noun is not None:
        return f"kumo {noun.singular} start {name.rsplit('/', 1)[-1]}"
    found = _DELETE.match(fix)
    target = noun_of(found[1]) if found else None
    if found and target is not None:
        return f"kumo {target.singular} delete {found[1].rsplit('/', 1)[-1]}"
    return fix
