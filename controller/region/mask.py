"""Update masks: which fields of a noun an update changes, and the change itself. It knows no noun and stores nothing.

A mask names fields by path; `*` or nothing means all that may change, and then what may not has to be left out or as it is. What
is unknown, fixed or written by Kumo alone is refused by name. A path replaces: a list or a map is replaced as a whole,
`labels.KEY` sets or removes one key.
"""

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from kumo.errors import InvalidArgument
from kumo.rpc.fields import IDENTIFIER, INPUT_ONLY, OUTPUT_ONLY, behaviors_of, is_map, is_own

_FIELD = "update_mask.paths"


def apply(current: Message, wanted: Message, paths: Sequence[str], changeable: Sequence[str], noun: str) -> bool:
    """Change `current` to have what `wanted` has at `paths`; True if anything is different then.

    Raises InvalidArgument, naming the path, for one that is not among `changeable`.
    """
    before = current.SerializeToString(deterministic=True)
    kind: Any = current.DESCRIPTOR  # one of two classes to the type checker, and one alone when it runs
    if not paths or list(paths) == ["*"]:
        _refuse_other_values(current, wanted, changeable, noun)
        paths = changeable
    for path in paths:
        _check(kind, path, changeable, noun)
    for path in paths:
        _copy(current, wanted, path.split("."))
    return before != current.SerializeToString(deterministic=True)


def _check(kind: Descriptor, path: str, changeable: Sequence[str], noun: str) -> None:
    if path in changeable or any(path.startswith(f"{whole}.") and path != f"{whole}." and _is_map_at(kind, whole) for whole in changeable):
        return
    field = _field_at(kind, path)
    fix = f"name one of {', '.join(changeable)}" if changeable else f"nothing of a {noun} can be changed"
    if field is None:
        raise InvalidArgument("MASK_PATH_UNKNOWN", f"a {noun} has no {path}", field=_FIELD, fix=fix, path=path)
    raise InvalidArgument("MASK_PATH_FIXED", f"{path} of a {noun} cannot be changed: {_why_not(field)}", field=_FIELD, fix=fix, path=path)


def _why_not(field: FieldDescriptor) -> str:
    behaviors = behaviors_of(field)
    if OUTPUT_ONLY in behaviors or field.name == "etag":
        return "only Kumo writes it"
    if IDENTIFIER in behaviors:
        return "a name stays"
    if field.message_type is not None and not field.is_repeated and is_own(field.message_type):
        return "it holds fields that are fixed, so name each one"
    return "it is fixed at creation"


def _field_at(kind: Descriptor | None, path: str) -> FieldDescriptor | None:
    field: FieldDescriptor | None = None
    for name in path.split("."):
        field = kind.fields_by_name.get(name) if kind is not None else None
        if field is None:
            return None
        kind = None if field.is_repeated else field.message_type
    return field


def _is_map_at(kind: Descriptor, path: str) -> bool:
    field = _field_at(kind, path)
    return field is not None and is_map(field)


def _refuse_other_values(current: Message, wanted: Message, changeable: Sequence[str], noun: str, above: str = "") -> None:
    """Refuse a value of a fixed field that is neither unset nor the present one: the caller believes that it will change."""
    for field, value in wanted.ListFields():
        path = f"{above}{field.name}"
        if path in changeable or path == "etag" or {OUTPUT_ONLY, IDENTIFIER} & behaviors_of(field):
            continue
        if field.message_type is not None and not field.is_repeated and is_own(field.message_type):
            _refuse_other_values(getattr(current, field.name), value, changeable, noun, f"{path}.")
        elif INPUT_ONLY in behaviors_of(field) or not _agrees(getattr(current, field.name), value):
            fix = "leave it as it is, or create another one"
            raise InvalidArgument("FIELD_FIXED", f"{path} of a {noun} is fixed at creation", field=f"{noun}.{path}", fix=fix, path=path)


def _agrees(current: object, given: object) -> bool:
    """Compare values; of messages in a list only what is given counts, since clients need not send what only Kumo writes."""
    if isinstance(current, Message) and isinstance(given, Message):
        return all(
            OUTPUT_ONLY in behaviors_of(field) or _agrees(getattr(current, field.name), value) for field, value in given.ListFields()
        )
    if isinstance(given, Sequence) and isinstance(current, Sequence) and not isinstance(given, str | bytes):
        return len(given) == len(current) and all(_agrees(mine, theirs) for mine, theirs in zip(current, given, strict=True))
    return current == given


def _copy(current: Message, wanted: Message, path: list[str]) -> None:
    name = path[0]
    field: Any = current.DESCRIPTOR.fields_by_name[name]
    if is_map(field):
        _copy_map(getattr(current, name), getattr(wanted, name), ".".join(path[1:]))
    elif len(path) > 1:
        _copy(getattr(current, name), getattr(wanted, name), path[1:])
    elif field.is_repeated:
        current.ClearField(name)
        getattr(current, name).MergeFrom(getattr(wanted, name))
    elif field.message_type is None:
        setattr(current, name, getattr(wanted, name))
    else:
        getattr(current, name).CopyFrom(getattr(wanted, name))


def _copy_map(current: dict[str, str], wanted: dict[str, str], key: str) -> None:
    """Change the one entry `key`, or all of them if it is empty."""
    if key and key in wanted:
        current[key] = wanted[key]
    elif key:
        current.pop(key, None)
    else:
        current.clear()
        current.update(wanted)
