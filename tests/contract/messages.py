"""Makes messages from descriptors: one with every field set, and one that keeps the rules of its contract."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from kumo.api.buf.validate import validate_pb2
from kumo.names import collection_of
from kumo.rpc.fields import OUTPUT_ONLY, REQUIRED, behaviors_of, is_map, is_own

_ID = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
_UUID = "6f1c6a3e-3b0a-7d2e-9c55-0e2c9d1b7a10"
# Strings to try where a rule is more than an id or a name.
_TRIED = ("", "x1", "192.0.2.1", "192.0.2.1:7402", "10.0.0.0/24", "fa:16:3e:00:00:01", _UUID, "ssh-ed25519 AAAA x", "0" * 64)


def full(descriptor: Descriptor, depth: int = 4) -> Message:
    """Return a message in which every field is set, to `depth` messages below; each of several alternatives in turn wins at last."""
    message: Message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        fill(message, field, depth)
    return message


def fill(message: Message, field: FieldDescriptor, depth: int) -> None:
    """Set `field` to something that is not its default."""
    kind = field.message_type
    if is_map(field):
        assert kind is not None
        value = kind.fields_by_name["value"]
        entries: Any = getattr(message, field.name)
        if value.message_type is None:
            entries[_scalar(kind.fields_by_name["key"])] = _scalar(value)
        elif depth:
            entries[_scalar(kind.fields_by_name["key"])].CopyFrom(full(value.message_type, depth - 1))
    elif kind is None:
        value = _scalar(field)
        getattr(message, field.name).extend([value, value]) if field.is_repeated else setattr(message, field.name, value)
    elif depth or not is_own(kind):
        inner = full(kind, depth - 1 if depth else 0)
        if field.is_repeated:
            getattr(message, field.name).extend([inner, inner])
        else:
            getattr(message, field.name).CopyFrom(inner)
            getattr(message, field.name).SetInParent()


def _scalar(field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return "x"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"x"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    return 1


def valid(descriptor: Descriptor, known: Mapping[str, str] = MappingProxyType({})) -> Message:
    """Return the smallest request that keeps the rules: what is required, and what a rule demands.

    Where the name of a resource is asked for, it is the one in `known` for its collection, such as networks.
    """
    message: Message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if OUTPUT_ONLY in behaviors_of(field) or not (REQUIRED in behaviors_of(field) or rules.required):
            continue
        kind = field.message_type
        if is_map(field):
            continue
        if field.is_repeated:
            count = rules.repeated.min_items
            items = [valid(kind, known) if kind is not None else _allowed(field, rules.repeated.items, known) for _ in range(count)]
            getattr(message, field.name).extend(items)
        elif kind is not None:
            getattr(message, field.name).CopyFrom(valid(kind, known))
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, _allowed(field, rules, known))
    return message


def _allowed(field: FieldDescriptor, rules: validate_pb2.FieldRules, known: Mapping[str, str]) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return _allowed_string(rules.string, known)
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    kind = rules.WhichOneof("type")
    least = getattr(getattr(rules, kind), "gte", 0) if kind is not None else 0
    return type(field.default_value)(least)


def _allowed_string(rules: validate_pb2.StringRules, known: Mapping[str, str]) -> str:
    examples = {"uuid": _UUID, "ip": "192.0.2.1", "ipv4": "192.0.2.1", "ip_prefix": "10.0.0.0/24", "ipv4_prefix": "10.0.0.0/24"}
    well_known = rules.WhichOneof("well_known")
    if well_known is not None:
        return examples[str(well_known)]
    if not rules.pattern:
        return "x" * max(1, rules.min_len)
    name = rules.pattern.strip("^$").replace(f"(-|{_ID})", "x1").replace(_ID, "x1").replace("[a-z0-9-]{1,63}", "x1")
    named = known.get(collection_of(name), name)
    return next(text for text in (named, *_TRIED) if re.search(rules.pattern, text))
