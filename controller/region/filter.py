"""Filters of lists and watches: `path = "value"` or `path != "value"`, joined by AND, compiled against the fields of one noun.

Values are compared as text: an enum by its name, a number in decimal, a boolean as true or false, a timestamp in RFC 3339. A path
may end in a map's key. Of a repeated field, `=` wants one element to match, and `!=` wants none to.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kumo.errors import InvalidArgument
from kumo.rpc.audience import may_see
from kumo.rpc.call import Audience
from kumo.rpc.fields import is_map

Matches = Callable[[Message], bool]

_GRAMMAR = 'write it as path = "value" or path != "value", joined by AND'
_CLAUSE = re.compile(
    r"""\s*(?P<path>[a-z_][a-z0-9_]*(?:\.[a-z0-9_][a-z0-9_./-]*)?)   # labels.my-key/x: a map's key is the rest of the path
        \s*(?P<operator>!=|=)
        \s*(?P<value>"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"|[A-Za-z0-9_.:+-]+)\s*""",
    re.VERBOSE,
)
_AND = re.compile(r"AND\b")
_MOST_CLAUSES = 16


@dataclass(frozen=True)
class _Step:
    """One part of a path: a field, or one key of a map field."""

    field: FieldDescriptor
    key: str | None = None


@dataclass(frozen=True)
class Clause:
    """One comparison."""

    path: tuple[_Step, ...]
    equal: bool
    value: str

    def matches(self, message: Message) -> bool:
        found = any(text == self.value for text in _texts(message, self.path))
        return found if self.equal else not found


@dataclass(frozen=True)
class Filter:
    """All clauses have to hold; none holds always."""

    clauses: tuple[Clause, ...] = ()

    def matches(self, message: Message) -> bool:
        return all(clause.matches(message) for clause in self.clauses)


EVERYTHING = Filter()


def parse(text: str, noun: Descriptor, audience: Audience) -> Filter:
    """Return the filter that `text` says. Raises InvalidArgument for grammar, and for paths that `audience` cannot see."""
    if not text.strip():
        return EVERYTHING
    clauses: list[Clause] = []
    at = 0
    while True:
        found = _CLAUSE.match(text, at)
        if found is None:
            raise _malformed(text, at)
        if len(clauses) == _MOST_CLAUSES:
            raise InvalidArgument("FILTER_TOO_LONG", f"filter has more than {_MOST_CLAUSES} comparisons", field="filter", fix="use fewer")
        path = _resolve(found["path"], noun, audience)
        clauses.append(Clause(path, found["operator"] == "=", _value(found["value"], path)))
        at = found.end()
        if at == len(text):
            return Filter(tuple(clauses))
        joint = _AND.match(text, at)
        if joint is None:
            raise _malformed(text, at)
        at = joint.end()


def _malformed(text: str, at: int) -> InvalidArgument:
    return InvalidArgument(
        "FILTER_MALFORMED", f"filter {text!r} cannot be read from position {at + 1} on", field="filter", fix=_GRAMMAR, position=at + 1
    )


def _resolve(path: str, noun: Descriptor, audience: Audience) -> tuple[_Step, ...]:
    steps: list[_Step] = []
    kind: Descriptor | None = noun
    rest = path
    while rest:
        name, _, rest = rest.partition(".")
        field = kind.fields_by_name.get(name) if kind is not None else None
        if field is None or not may_see(field, audience):
            raise _unknown(path, name, kind, audience)
        if is_map(field):
            if not rest:
                raise InvalidArgument(
                    "FILTER_PATH_INCOMPLETE",
                    f"{path} is a map: name a key",
                    field="filter",
                    fix=f'filter by {path}.KEY = "VALUE"',
                    path=path,
                )
            return (*steps, _Step(field, rest))
        steps.append(_Step(field))
        kind = field.message_type
    if kind is not None and kind.full_name != Timestamp.DESCRIPTOR.full_name:
        below = ", ".join(f"{path}.{field.name}" for field in kind.fields if may_see(field, audience))
        raise InvalidArgument(
            "FILTER_PATH_INCOMPLETE", f"{path} has no value of its own", field="filter", fix=f"filter by one of {below}", path=path
        )
    return tuple(steps)


def _unknown(path: str, name: str, kind: Descriptor | None, audience: Audience) -> InvalidArgument:
    fields = (
        [field.name for field in kind.fields if may_see(field, audience)] if kind is not None and kind.full_name.startswith("kumo.") else []
    )
    fix = f"use one of {', '.join(fields)}" if fields else "leave out what follows the last dot"
    return InvalidArgument("FILTER_PATH_UNKNOWN", f"filter names {path}, and there is no {name}", field="filter", fix=fix, path=path)


def _value(text: str, path: tuple[_Step, ...]) -> str:
    value = str(json.loads(text)) if text.startswith('"') else text
    field = path[-1].field
    if field.enum_type is not None and path[-1].key is None and value not in field.enum_type.values_by_name:
        names = ", ".join(field.enum_type.values_by_name)
        raise InvalidArgument(
            "FILTER_VALUE_UNKNOWN", f"{field.name} is never {value!r}", field="filter", fix=f"use one of {names}", value=value
        )
    return value


def _texts(message: Message, path: tuple[_Step, ...]) -> Iterator[str]:
    """Yield the value at `path` as text, one for each element of what is repeated; nothing for what is not there."""
    step, rest = path[0], path[1:]
    held = getattr(message, step.field.name)
    if step.key is not None:
        if step.key in held:
            yield str(held[step.key])
        return
    for value in held if step.field.is_repeated else (held,):
        if rest:
            yield from _texts(value, rest)
        else:
            yield _text(step.field, value)


def _text(field: FieldDescriptor, value: object) -> str:
    if field.enum_type is not None:
        found = field.enum_type.values_by_number.get(value)  # type: ignore[call-overload]  # the value of an enum field is its number
        return found.name if found else str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Timestamp):
        return value.ToJsonString() if value.seconds or value.nanos else ""
    return str(value)
