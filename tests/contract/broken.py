"""Breaks requests, one field at a time: missing, oversized, malformed, or naming what does not exist."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from kumo.names import collection_of, join, parent_of
from kumo.rpc.fields import IDENTIFIER, OUTPUT_ONLY, REQUIRED, behaviors_of, is_map, is_own

MANY = 2000
LONG = 200_000
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: 31,
    FieldDescriptor.TYPE_INT64: 63,
}


@dataclass(frozen=True)
class Place:
    """A field that a client may set, somewhere in a request; `path` leads to the message that holds it."""

    path: tuple[str, ...]
    field: FieldDescriptor

    def holder(self, request: Message) -> Any:
        """Return the message that holds the field: of repeated ones the first."""
        message: Any = request
        for name in self.path:
            message = getattr(message, name)
            if not isinstance(message, Message):
                message = message[0]
        return message

    def __str__(self) -> str:
        return ".".join((*self.path, self.field.name))


def places(request: Message) -> list[Place]:
    """Return every field that a client may set in `request`, in the messages that are there."""
    return list(_places(request, ()))


def _places(message: Any, path: tuple[str, ...]) -> Iterator[Place]:
    for field in message.DESCRIPTOR.fields:
        if behaviors_of(field) & {OUTPUT_ONLY, IDENTIFIER}:
            continue
        yield Place(path, field)
        kind = field.message_type
        if kind is None or is_map(field) or not is_own(kind):
            continue
        value = getattr(message, field.name)
        if field.is_repeated and len(value):
            yield from _places(value[0], (*path, field.name))
        elif not field.is_repeated and message.HasField(field.name):
            yield from _places(value, (*path, field.name))


@dataclass(frozen=True)
class Broken:
    """A request with one field broken. `is_absent`: it keeps all rules, but names what does not exist."""

    place: Place
    how: str
    request: Message
    is_absent: bool = False

    def __str__(self) -> str:
        return f"{self.place} {self.how}"


def broken(request: Message) -> Iterator[Broken]:
    """Yield copies of `request`, each with one field broken in one way."""
    for place in places(request):
        for how, spoil in _ways(place, place.holder(request)):
            copy = type(request)()
            copy.CopyFrom(request)
            spoil(place.holder(copy))
            yield Broken(place, how, copy, how == "absent")


Spoil = Callable[[Any], object]


def _ways(place: Place, holder: Any) -> Iterator[tuple[str, Spoil]]:
    field, name = place.field, place.field.name
    if REQUIRED in behaviors_of(field):
        yield "missing", lambda message: message.ClearField(name)
    if is_map(field):
        yield "with too many entries", lambda message: getattr(message, name).update({f"k{n}": "v" for n in range(MANY)})
        yield "with a malformed key", lambda message: getattr(message, name).update({"No Key\n": "v"})
        yield "with a long value", lambda message: getattr(message, name).update({"k": "v" * LONG})
    elif field.is_repeated:
        yield "with too many items", lambda message: _repeat(message, name)
    elif field.type == FieldDescriptor.TYPE_STRING:
        yield "oversized", lambda message: setattr(message, name, "x" * LONG)
        yield "malformed", lambda message: setattr(message, name, "No\x00 Name\n/../\u202e")
        value = getattr(holder, name)
        if "/" in value and collection_of(value) not in ("", "projects"):
            absent = join(parent_of(value), collection_of(value), "absent-thing")
            yield "absent", lambda message: setattr(message, name, absent)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        yield "oversized", lambda message: setattr(message, name, b"x" * (2 << 20))
    elif field.enum_type is not None:
        yield "undefined", lambda message: setattr(message, name, 99)
    elif field.type in _INTEGERS:
        bits = _INTEGERS[field.type]
        yield "below all", lambda message: setattr(message, name, -(1 << bits))
        yield "above all", lambda message: setattr(message, name, (1 << bits) - 1)


def _repeat(message: Any, name: str) -> None:
    items = getattr(message, name)
    if message.DESCRIPTOR.fields_by_name[name].message_type is not None:
        first = items[0] if len(items) else items.add()
        items.extend([first] * MANY)
    else:
        items.extend([items[0] if len(items) else "x"] * MANY)


def values_for(field: FieldDescriptor) -> st.SearchStrategy[Any] | None:
    """Return arbitrary values for a single field without messages; None for other kinds."""
    if field.is_repeated or field.message_type is not None:
        return None
    if field.type == FieldDescriptor.TYPE_STRING:
        names = st.from_regex(r"(projects/[a-z]{1,3}/)?(networks|servers|flavors|pools)/[a-z]{1,3}", fullmatch=True)
        return st.one_of(st.text(st.characters(codec="utf-8"), max_size=80), names)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=200)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.enum_type is not None:
        return st.integers(-1, len(field.enum_type.values) + 1)
    bits = _INTEGERS[field.type]
    return st.integers(-(1 << bits), (1 << bits) - 1)
