"""Refuses requests that break the rules written in the protos, and clears what a client may not set. It knows no noun.

Output-only fields, and the name in a create, are ignored (AIP-203, AIP-133). In an update the mask says which rules apply (AIP-134).
"""

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from protovalidate import Validator
from protovalidate import Violation as RuleViolation

from kumo.errors import InvalidArgument, PermissionDenied
from kumo.rpc.audience import forbidden_to_tenants
from kumo.rpc.call import Audience
from kumo.rpc.fields import IDENTIFIER, OUTPUT_ONLY, SECRET, audience_of, behaviors_of, is_map
from kumo.rpc.status import Violation
from kumo.rpc.walk import compile_plan
from kumo.rpc.words import rule_in_words

_VALIDATOR = Validator()
_SHOWN_VALUE_CHARS = 64
_MOST_VIOLATIONS = 20

Check = Callable[[Message, Audience], None]


class InvalidRequest(InvalidArgument):
    """A request that breaks rules of the contract; `violations` has one entry a broken rule."""

    def __init__(self, violations: tuple[Violation, ...], **metadata: str) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__("FIELD_INVALID", first.description + more, field=first.field, fix="change the fields that are named", **metadata)
        self.violations = violations


def compile_check(method: MethodDescriptor, *, public: bool) -> Check:
    """Return the function that prepares and checks a request of `method`; it may change the request, and raises InvalidArgument.

    `public` is False between processes, where records travel whole and output-only fields are what is being told.
    """
    request = method.input_type
    resource = _updated_resource(request) if public and method.name.startswith("Update") else None
    resource_type = resource.message_type if resource is not None else None
    is_create = method.name.startswith("Create")
    ignored = compile_plan(request, lambda field: _is_ignored(field, is_create=is_create)) if public else None
    forbidden = forbidden_to_tenants(request) if public else None

    def check(message: Message, audience: Audience) -> None:
        if ignored is not None:
            ignored.clear(message)
        if forbidden is not None and audience == Audience.TENANT:
            _refuse_forbidden(forbidden.present(message))
        found = _VALIDATOR.collect_violations(message)
        if resource is None or resource_type is None:
            if found:
                raise _invalid(found, request)
            return
        mask: FieldMask = message.update_mask  # type: ignore[attr-defined]  # _updated_resource saw that it is there
        check_mask(mask, resource_type)
        if found and (relevant := [violation for violation in found if _applies(violation, resource.name, mask)]):
            raise _invalid(relevant, request)

    return check


def check_mask(mask: FieldMask, resource: Descriptor) -> None:
    """Raises InvalidArgument for a path that is not a field, or is one that only Kumo sets."""
    for path in mask.paths:
        if path == "*":
            continue
        kind: Descriptor | None = resource
        for part in path.split("."):
            field = kind.fields_by_name.get(part) if kind is not None else None
            if field is None:
                raise InvalidArgument(
                    "FIELD_UNKNOWN",
                    f"update_mask names {path!r}, but {resource.name} has no such field",
                    field="update_mask",
                    fix=f"name fields of {resource.name}, such as labels",
                    value=path,
                )
            if behaviors_of(field) & {OUTPUT_ONLY, IDENTIFIER}:
                raise InvalidArgument(
                    "FIELD_OUTPUT_ONLY",
                    f"update_mask names {path!r}, which only Kumo sets",
                    field="update_mask",
                    fix="leave it out; a method of its own may change it",
                    value=path,
                )
            if is_map(field):
                break  # what follows is a key
            kind = field.message_type


def _is_ignored(field: FieldDescriptor, *, is_create: bool) -> bool:
    behaviors = behaviors_of(field)
    return OUTPUT_ONLY in behaviors or (is_create and IDENTIFIER in behaviors)


def _updated_resource(request: Descriptor) -> FieldDescriptor | None:
    """Return the field of an update request that holds the resource, if there is a mask beside it."""
    if "update_mask" not in request.fields_by_name:
        return None
    others = (field for field in request.fields if field.message_type is not None and field.name != "update_mask")
    return next(others, None)


def _refuse_forbidden(present: Iterable[FieldDescriptor]) -> None:
    for field in present:
        raise PermissionDenied(
            "FIELD_NOT_YOURS", f"{field.name} is set by operators only", field=field.name, fix=f"leave {field.name} out, or ask an operator"
        )


def _applies(violation: RuleViolation, resource: str, mask: FieldMask) -> bool:
    """True unless the rule is about a part of the resource that the mask leaves alone."""
    path = [element.field_name for element in violation.proto.field.elements] if violation.proto.field else []
    if not mask.paths or "*" in mask.paths or not path or path[0] != resource or len(path) == 1:
        return True
    return any(path[1 : 1 + len(parts)] == parts for parts in (masked.split(".") for masked in mask.paths))


def _invalid(found: list[RuleViolation], request: Descriptor) -> InvalidRequest:
    violations = tuple(_described(violation, request) for violation in found[:_MOST_VIOLATIONS])
    first = found[0]
    value = _shown(first, request)
    return InvalidRequest(violations, rule=str(first.proto.rule_id), value=value)


def _described(violation: RuleViolation, request: Descriptor) -> Violation:
    proto = violation.proto
    field = path_of(violation)
    what = "a key that cannot be" if proto.for_key else _shown(violation, request)
    rule = rule_in_words(str(proto.message or proto.rule_id))
    return Violation(field, f"{field or request.name} is {what}: {rule}", str(proto.rule_id).upper().replace(".", "_"))


def path_of(violation: RuleViolation) -> str:
    """Return the path of the field, such as server.spec.nics[0].network or server.labels["env"]; empty for the whole request."""
    parts: list[str] = []
    for element in violation.proto.field.elements if violation.proto.field else ():
        subscript: Any = element.subscript  # one of five kinds of key, or None
        text = str(element.field_name)
        if subscript is not None:
            key = subscript.value
            text += f'["{key[:_SHOWN_VALUE_CHARS]}"]' if isinstance(key, str) else f"[{key}]"
        parts.append(text)
    return ".".join(parts)


def _shown(violation: RuleViolation, request: Descriptor) -> str:
    """Return the offending value as a client may have it back; not if it is a secret, and not all of it if it is long."""
    kind: Descriptor | None = request
    for element in violation.proto.field.elements if violation.proto.field else ():
        field = kind.fields_by_name.get(str(element.field_name)) if kind is not None else None
        if field is not None and audience_of(field) == SECRET:
            return "[hidden]"
        kind = field.message_type if field is not None else None
    value = violation.field_value
    if value is None or isinstance(value, Message) or not isinstance(value, str | bytes | int | float | bool):
        return "not set" if value is None else "set wrongly"
    text = repr(value)
    return text if len(text) <= _SHOWN_VALUE_CHARS else f"{text[:_SHOWN_VALUE_CHARS]}… ({len(text)} characters)"
