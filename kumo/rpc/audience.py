"""Decides what a principal may see and set: which fields of messages, and which names in the texts of errors."""

import re

from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor

from kumo.errors import Error
from kumo.rpc.call import Audience
from kumo.rpc.fields import OPERATOR, TENANT, audience_of, is_own, method_audience, value_type
from kumo.rpc.walk import Plan, compile_plan


def may_see(field: FieldDescriptor, audience: Audience) -> bool:
    """True if `audience` may read `field`. Parts of Kumo read everything, secrets too: they carry them from one to another."""
    return audience == Audience.INTERNAL or TENANT <= audience_of(field) <= audience


def forbidden_to_tenants(descriptor: Descriptor) -> Plan | None:
    """Return which fields of a request only an operator may set; secrets are for all, because they are only taken in."""
    return compile_plan(descriptor, lambda field: audience_of(field) == OPERATOR)


class ErrorFilter:
    """Hides, from the errors that a tenant gets, the names that only an operator may know: hosts, and fields such as a server's host."""

    def __init__(self, services: list[ServiceDescriptor]) -> None:
        """Learns from the public contracts what is an operator's: whole collections, and fields."""
        collections = [service.name.lower() for service in services if _is_for_operators(service)]
        self._names = re.compile(rf"\b({'|'.join(collections)})/[a-z0-9][a-z0-9-]*") if collections else None
        seen, hidden = _field_names(services)
        self._keys = frozenset(hidden - seen)

    def apply(self, error: Error, audience: Audience) -> Error:
        """Return `error` as `audience` may read it; the class, the reason and the field stay."""
        if audience != Audience.TENANT or (self._names is None and not self._keys):
            return error
        kept = {key: self._text(value) for key, value in error.metadata.items() if key not in self._keys}
        return type(error)(error.reason, self._text(error.message), field=error.field, fix=self._text(error.fix), **kept)

    def _text(self, text: str) -> str:
        return text if self._names is None else self._names.sub(lambda found: f"one of the {found[1]}", text)


def _is_for_operators(service: ServiceDescriptor) -> bool:
    return bool(service.methods) and all(method_audience(method) >= OPERATOR for method in service.methods)


def _field_names(services: list[ServiceDescriptor]) -> tuple[set[str], set[str]]:
    """Return the names of fields that a tenant sees anywhere, and of those it must not see."""
    seen: set[str] = set()
    hidden: set[str] = set()
    todo = [kind for service in services for method in service.methods for kind in (method.input_type, method.output_type)]
    done: set[str] = set()
    while todo:
        kind = todo.pop()
        if kind.full_name in done or not is_own(kind):
            continue
        done.add(kind.full_name)
        for field in kind.fields:
            (seen if may_see(field, Audience.TENANT) else hidden).add(field.name)
            if (below := value_type(field)) is not None:
                todo.append(below)
    return seen, hidden
