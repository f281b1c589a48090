"""Every field of every public answer, read through the real interceptor as tenant and as operator: only what may be seen arrives."""

import asyncio
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from kumo.errors import PermissionDenied
from kumo.rpc.call import Audience, Principal
from kumo.rpc.fields import OPERATOR, OWN_PACKAGE, audience_of, is_map, method_audience
from tests.contract.contracts import public_services
from tests.contract.messages import full, valid
from tests.kumo.rpc.doubles import Answers, call, serving
from tests.pki import Pki

PRINCIPALS = {audience: Principal(audience.name.lower(), audience) for audience in (Audience.TENANT, Audience.OPERATOR)}


def fields_set(message: Message, path: str = "", *, hidden: bool = False, most: int = 0) -> Iterator[tuple[str, bool]]:
    """Yield the path of every field that is set, and whether it, or what it lies in, is for more than `most`. Plain, on purpose."""
    for field, value in message.ListFields():
        where = f"{path}.{field.name}"
        is_hidden = hidden or audience_of(field) > most
        yield where, is_hidden
        for inner in _messages_in(field, value):
            if inner.DESCRIPTOR.full_name.startswith(OWN_PACKAGE):
                yield from fields_set(inner, where, hidden=is_hidden, most=most)


def _messages_in(field: FieldDescriptor, value: object) -> list[Message]:
    if is_map(field):
        return [inner for inner in value.values() if isinstance(inner, Message)]  # type: ignore[attr-defined]  # a map
    if field.is_repeated:
        return [inner for inner in value if isinstance(inner, Message)]  # type: ignore[attr-defined]  # a list
    return [value] if isinstance(value, Message) else []


@pytest.mark.parametrize("audience", PRINCIPALS, ids=lambda audience: audience.name.lower())
@pytest.mark.parametrize("service", public_services(), ids=lambda service: service.name)
async def test_what_may_be_seen_arrives_and_nothing_else(pki: Pki, service: ServiceDescriptor, audience: Audience) -> None:
    def answering(method: MethodDescriptor) -> object:
        return lambda _request: full(method.output_type)

    answers = Answers({method.name: answering(method) for method in service.methods})  # type: ignore[misc]  # of every kind
    async with serving(pki, [service], answers, principal_of=lambda _context: PRINCIPALS[audience]) as dialled, asyncio.timeout(60):
        for method in service.methods:
            request = valid(method.input_type)
            if audience == Audience.TENANT and method_audience(method) == OPERATOR:
                with pytest.raises(PermissionDenied):
                    await call(dialled, method, request)
                continue
            answer = await call(dialled, method, request)
            wanted = {path for path, is_hidden in fields_set(full(method.output_type), most=audience) if not is_hidden}
            for message in answer if isinstance(answer, list) else [answer]:
                assert {path for path, _ in fields_set(message)} == wanted, method.name
    assert answers.seen or audience == Audience.TENANT


def test_there_is_something_to_hide_from_each_audience() -> None:
    methods = [method for service in public_services() for method in service.methods]
    for audience in PRINCIPALS:
        assert any(is_hidden for method in methods for _, is_hidden in fields_set(full(method.output_type), most=audience))
