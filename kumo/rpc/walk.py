"""Compiles, once a message type, which fields to clear and where below to go on, so that a call pays only for what there is.

Which fields those are is the caller's choice (kumo.rpc.audience, kumo.rpc.validate).
"""

from collections.abc import Callable, Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from kumo.rpc.fields import is_map, is_own, value_type

Chosen = Callable[[FieldDescriptor], bool]


class Plan:
    """What to clear in one message type, and which of its fields hold messages with something to clear."""

    __slots__ = ("chosen", "maps", "repeated", "singles")

    def __init__(self) -> None:
        self.chosen: tuple[FieldDescriptor, ...] = ()
        self.singles: tuple[tuple[str, Plan], ...] = ()
        self.repeated: tuple[tuple[str, Plan], ...] = ()
        self.maps: tuple[tuple[str, Plan], ...] = ()

    def clear(self, message: Message) -> None:
        """Clear every chosen field in `message` and below."""
        for field in self.chosen:
            message.ClearField(field.name)
        for below, plan in self._below(message):
            plan.clear(below)

    def present(self, message: Message) -> Iterator[FieldDescriptor]:
        """Yield every chosen field that is set in `message` or below."""
        for field in self.chosen:
            if _is_set(message, field):
                yield field
        for below, plan in self._below(message):
            yield from plan.present(below)

    def _below(self, message: Message) -> Iterator[tuple[Message, "Plan"]]:
        for name, plan in self.singles:
            if message.HasField(name):
                yield getattr(message, name), plan
        for name, plan in self.repeated:
            for item in getattr(message, name):
                yield item, plan
        for name, plan in self.maps:
            for item in getattr(message, name).values():
                yield item, plan


def compile_plan(root: Descriptor, chosen: Chosen) -> Plan | None:
    """Return the plan for `root`, or None if nothing in it or below can ever be chosen. Types may contain themselves."""
    needed = _types_with_chosen(root, chosen)
    if root.full_name not in needed:
        return None
    plans = {name: Plan() for name in needed}
    for descriptor in _reachable(root, chosen):
        if descriptor.full_name in plans:
            _fill(plans[descriptor.full_name], descriptor, chosen, plans)
    return plans[root.full_name]


def _fill(plan: Plan, descriptor: Descriptor, chosen: Chosen, plans: dict[str, Plan]) -> None:
    plan.chosen = tuple(field for field in descriptor.fields if chosen(field))
    below = [(field, value_type(field)) for field in descriptor.fields if not chosen(field)]
    holding = [(field, plans[kind.full_name]) for field, kind in below if kind is not None and kind.full_name in plans]
    plan.maps = tuple((field.name, inner) for field, inner in holding if is_map(field))
    plan.repeated = tuple((field.name, inner) for field, inner in holding if field.is_repeated and not is_map(field))
    plan.singles = tuple((field.name, inner) for field, inner in holding if not field.is_repeated)


def _children(descriptor: Descriptor, chosen: Chosen) -> list[Descriptor]:
    kinds = (value_type(field) for field in descriptor.fields if not chosen(field))
    return [kind for kind in kinds if kind is not None and is_own(kind)]


def _reachable(root: Descriptor, chosen: Chosen) -> list[Descriptor]:
    """Return every type of our own that can occur in `root`, itself first."""
    found = {root.full_name: root}
    queue = [root]
    while queue:
        for kind in _children(queue.pop(), chosen):
            if kind.full_name not in found:
                found[kind.full_name] = kind
                queue.append(kind)
    return list(found.values())


def _types_with_chosen(root: Descriptor, chosen: Chosen) -> set[str]:
    """Return the names of the types that hold a chosen field, themselves or below."""
    reachable = _reachable(root, chosen)
    needed = {kind.full_name for kind in reachable if any(chosen(field) for field in kind.fields)}
    grown = True
    while grown:
        more = {kind.full_name for kind in reachable if any(child.full_name in needed for child in _children(kind, chosen))}
        grown = not more <= needed
        needed |= more
    return needed


def _is_set(message: Message, field: FieldDescriptor) -> bool:
    if field.has_presence:
        return message.HasField(field.name)
    value = getattr(message, field.name)
    return bool(len(value)) if field.is_repeated else bool(value != field.default_value)
