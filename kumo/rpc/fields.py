"""Reads the options of fields and methods that Kumo gives a meaning: audience and behaviour. Everything is looked up once and kept."""

from functools import cache

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from kumo.api import annotations_pb2

UNSPECIFIED = annotations_pb2.AUDIENCE_UNSPECIFIED
TENANT = annotations_pb2.TENANT
OPERATOR = annotations_pb2.OPERATOR
INTERNAL = annotations_pb2.INTERNAL
SECRET = annotations_pb2.SECRET

OUTPUT_ONLY = field_behavior_pb2.OUTPUT_ONLY
INPUT_ONLY = field_behavior_pb2.INPUT_ONLY
IDENTIFIER = field_behavior_pb2.IDENTIFIER
IMMUTABLE = field_behavior_pb2.IMMUTABLE
REQUIRED = field_behavior_pb2.REQUIRED

OWN_PACKAGE = "kumo.api."


def is_own(message: Descriptor) -> bool:
    """True for messages of Kumo's contracts; all others (timestamps, masks) are seen and hidden as a whole, with their field."""
    return message.full_name.startswith(OWN_PACKAGE)


@cache
def audience_of(field: FieldDescriptor) -> int:
    """Return who may see `field`: its own audience, or the default of its message; UNSPECIFIED if neither says."""
    own = field.GetOptions().Extensions[annotations_pb2.audience]
    holder = field.containing_type
    assert holder is not None, "an extension has no audience"
    default = holder.GetOptions().Extensions[annotations_pb2.default_audience]
    return int(own or default)


@cache
def behaviors_of(field: FieldDescriptor) -> frozenset[int]:
    return frozenset(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])  # type: ignore[index]  # Google's stub calls the extension a field


@cache
def method_audience(method: MethodDescriptor) -> int:
    """Return who may call `method`; nothing said means every tenant."""
    return int(method.GetOptions().Extensions[annotations_pb2.method_audience] or TENANT)


def is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def value_type(field: FieldDescriptor) -> Descriptor | None:
    """Return the message that a field holds, once, many times or as the values of a map; None for scalars."""
    kind = field.message_type
    return kind.fields_by_name["value"].message_type if kind is not None and is_map(field) else kind
