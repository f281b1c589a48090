"""Resource names are paths such as projects/{project}/servers/{server}: this parses, builds and checks them.

It does not know which nouns exist, nor whether a thing of that name does.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from kumo.errors import InvalidArgument

ID_RULE = "1 to 63 characters: lower-case letters, digits and hyphens, a letter first, no hyphen last"
_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Pattern:
    """What the names of one noun look like; `text` has variables in braces at every second segment."""

    text: str

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The names of the variables, from left to right; the last is the thing's own id."""
        return tuple(_VARIABLE.findall(self.text))

    @cached_property
    def collection(self) -> str:
        """The plural noun just before the thing's own id."""
        return self.text.split("/")[-2]

    @cached_property
    def parent(self) -> str:
        """The pattern of the parent's name; empty for a noun that has none."""
        return "/".join(self.text.split("/")[:-2])

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        return re.compile(_VARIABLE.sub(lambda found: f"(?P<{found[1]}>{_ID.pattern})", self.text))

    def matches(self, name: str) -> bool:
        return self._expression.fullmatch(name) is not None

    def parse(self, name: str, *, field: str = "name") -> dict[str, str]:
        """Return the value of each variable. Raises InvalidArgument, naming `field`, if `name` does not fit."""
        found = self._expression.fullmatch(name)
        if found is None:
            raise InvalidArgument(
                "NAME_MALFORMED",
                f"{field} is {name!r}, which does not look like {self.text}",
                field=field,
                fix=f"write it as {self.text}, where each id is {ID_RULE}",
                value=name,
                pattern=self.text,
            )
        return found.groupdict()

    def format(self, **ids: str) -> str:
        """Return the name with these ids in it. Raises InvalidArgument for a malformed id, KeyError for a missing one."""
        for variable in self.variables:
            check_id(ids[variable], field=variable)
        return self.text.format_map(ids)

    def child(self, parent: str, own_id: str, *, field: str = "id") -> str:
        """Return the name of `own_id` under `parent`. Raises InvalidArgument if either does not fit."""
        check_id(own_id, field=field)
        if self.parent:
            Pattern(self.parent).parse(parent, field="parent")
        return join(parent, self.collection, own_id)


def check_id(own_id: str, *, field: str = "id") -> str:
    """Return `own_id` if it may stand in a name. Raises InvalidArgument, naming `field`."""
    if _ID.fullmatch(own_id) is None:
        raise InvalidArgument("ID_MALFORMED", f"{field} is {own_id!r}", field=field, fix=f"use {ID_RULE}", value=own_id)
    return own_id


def join(parent: str, collection: str, own_id: str) -> str:
    """Return the name of a thing; `parent` is empty at the top."""
    return f"{parent}/{collection}/{own_id}" if parent else f"{collection}/{own_id}"


def parent_of(name: str) -> str:
    """Return the parent's name; empty for a thing at the top."""
    return "/".join(name.split("/")[:-2])


def id_of(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def collection_of(name: str) -> str:
    """Return the plural noun that says what kind of thing `name` names; empty if there is none."""
    segments = name.split("/")
    return segments[-2] if len(segments) > 1 else ""


def project_of(name: str) -> str:
    """Return projects/{project} of a name inside a project; empty for what belongs to none."""
    segments = name.split("/")
    return "/".join(segments[:2]) if segments[0] == "projects" and len(segments) > 1 else ""
