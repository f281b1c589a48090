"""A server for any contract whose methods answer what a test says, and the wiring to call it. The interceptor is the real one."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from kumo.rpc.client import channel, opened
from kumo.rpc.identity import PrincipalOf, everyone_is_operator
from kumo.rpc.interceptor import Limits
from kumo.rpc.server import INTERNAL, PUBLIC, Server
from tests.pki import Pki

Answer = Callable[[Any], Any]


@dataclass
class Answers:
    """What each method does, by its name: a function of the request (or of the list of requests) giving a message or a list of them.

    A method without an entry answers with an empty message. `seen` has what handlers were given, after the interceptor.
    """

    by_method: dict[str, Answer] = field(default_factory=dict)
    seen: list[Any] = field(default_factory=list)


def handlers_of(service: ServiceDescriptor, answers: Answers) -> Mapping[str, Any]:
    return {method.name: _handler(method, answers) for method in service.methods}


def _handler(method: MethodDescriptor, answers: Answers) -> Any:
    request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

    async def given(request: Any) -> Any:
        if method.client_streaming:
            request = [message async for message in request]
        answers.seen.append(request)
        found = answers.by_method.get(method.name, lambda _request: response_class())(request)  # type: ignore[no-untyped-call]  # whatever the test gave
        return await found if hasattr(found, "__await__") else found

    async def answer(request: Any, _context: Any) -> Message:
        result: Message = await given(request)
        return result

    async def stream(request: Any, _context: Any) -> AsyncIterator[Message]:
        result = await given(request)
        if hasattr(result, "__aiter__"):
            async for message in result:
                yield message
            return
        for message in result if isinstance(result, list) else [result]:
            yield message

    kinds = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    make: Any = getattr(grpc, "{}_{}_rpc_method_handler".format(*kinds))
    return make(
        stream if method.server_streaming else answer,
        request_deserializer=request_class.FromString,
        response_serializer=response_class.SerializeToString,
    )


async def call(dialled: grpc.aio.Channel, method: MethodDescriptor, request: Any, **options: Any) -> Any:
    """Call `method`, of whatever kind, and return its answer, or the list of its answers."""
    kinds = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    service = method.containing_service
    request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    make = getattr(dialled, "{}_{}".format(*kinds))
    multi = make(f"/{service.full_name}/{method.name}", request_class.SerializeToString, response_class.FromString)
    sent = _each(request if isinstance(request, list) else [request]) if method.client_streaming else request
    if not method.server_streaming:
        return await multi(sent, **options)
    async with opened(multi(sent, **options)) as stream:
        return [message async for message in stream]


async def _each(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


def _adding(service: ServiceDescriptor, answers: Answers) -> Any:
    """Return what the generated add_..._to_server functions are for other services."""

    def add(_servicer: object, server: Any) -> None:
        server.add_registered_method_handlers(service.full_name, handlers_of(service, answers))

    return add


@asynccontextmanager
async def serving(
    pki: Pki,
    services: list[ServiceDescriptor],
    answers: Answers,
    *,
    principal_of: PrincipalOf = everyone_is_operator,
    public: bool = True,
    limits: Limits | None = None,
) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel to a real listener on loopback that offers `services`."""
    cell, role = ("region", "controller") if public else ("a", "agent")
    tls = pki.server_tls(cell, role, require_client=not public)
    server = Server("127.0.0.1:0", tls, principal_of, port=PUBLIC if public else INTERNAL, limits=limits)
    for service in services:
        server.add(_adding(service, answers), service)
    credentials: Any = pki.root.cert_pem if public else pki.credentials("a", "controller")
    async with server, channel(server.address, credentials, server_name=pki.identity(cell, role).dns) as dialled:
        yield dialled
