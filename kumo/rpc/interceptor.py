"""The one interceptor: request id, principal, limit, who may call, validation, audience, metrics and errors of every call.

Each method's wrapped handler is built once. A handler is `async def f(request, context)` returning a message, or an async generator
yielding messages; it raises kumo.errors and never touches status codes. What it raises otherwise is a bug: the caller gets an
incident id, the log the text.
"""

import asyncio
import inspect
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from kumo.errors import DeadlineExceeded, Error, Internal, PermissionDenied, ResourceExhausted, Unavailable
from kumo.ids import new_uid
from kumo.lasting import is_being_cancelled
from kumo.log import bind, get_logger
from kumo.origin import remember
from kumo.rpc.audience import ErrorFilter
from kumo.rpc.call import CALL, REQUEST_ID_KEY, Audience, Call, Principal, current_call
from kumo.rpc.encoded import Encoded
from kumo.rpc.fields import method_audience
from kumo.rpc.identity import Context, PrincipalOf
from kumo.rpc.meter import METERS
from kumo.rpc.status import for_abort, to_status
from kumo.rpc.validate import Check, InvalidRequest, compile_check
from kumo.rpc.views import serializer

log = get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# A call that fails so is the caller's or nobody's fault, and one line of INFO is enough.
_EXPECTED = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED", "CANCELLED"})

Handler = Callable[[Any, Context], Any]
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


# Methods whose names begin so change nothing, and are not worth a line each.
_READING = ("Get", "List", "Watch", "Read", "Describe", "Check")


@dataclass(frozen=True)
class Limits:
    """How many calls one principal may have in flight at a time: answers awaited, and streams open."""

    unary: int
    streams: int


class _Method:
    """What is known of one method before any call."""

    def __init__(self, descriptor: MethodDescriptor, handler: MethodHandler, *, public: bool) -> None:
        service = descriptor.containing_service
        self.path = f"/{service.full_name}/{descriptor.name}"
        self.service, self.name = service.full_name, descriptor.name
        self.audience = method_audience(descriptor) if public else Audience.INTERNAL
        self.check: Check = compile_check(descriptor, public=public)
        self.changes = not self.name.startswith(_READING)
        self.takes_stream = bool(handler.request_streaming)
        self.is_stream = bool(handler.request_streaming or handler.response_streaming)
        self.meter = METERS.of(self.service, self.name)
        self.serializers = {audience: serializer(descriptor.output_type, audience) for audience in Audience}


class Interceptor:
    """Wraps the handlers of one listener."""

    def __init__(self, principal_of: PrincipalOf, services: list[ServiceDescriptor], limits: Limits, *, public: bool = True) -> None:
        """`services` are all that the listener offers; `public` is False for listeners between Kumo's own processes."""
        self._principal_of = principal_of
        self._public = public
        self._limits = limits
        self._calls: dict[tuple[str, bool], int] = defaultdict(int)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_ending = False
        self._errors = ErrorFilter(services if public else [])

    def wrap(self, descriptor: MethodDescriptor, handler: MethodHandler) -> MethodHandler:
        """Return `handler` with everything around it. Raises TypeError for a handler of a kind that cannot be wrapped."""
        method = _Method(descriptor, handler, public=self._public)
        make: Any = getattr(grpc, f"{_kind(handler.request_streaming)}_{_kind(handler.response_streaming)}_rpc_method_handler")
        inner: Handler = getattr(handler, f"{_kind(handler.request_streaming)}_{_kind(handler.response_streaming)}")
        if getattr(inner, "__module__", "").endswith("_pb2_grpc"):
            inner = _unimplemented_stream if handler.response_streaming else _unimplemented
        if handler.response_streaming != inspect.isasyncgenfunction(inner):
            wanted = "an async generator" if handler.response_streaming else "an async function"
            raise TypeError(f"the handler of {method.path} must be {wanted}")
        wrapped = self._streaming(method, inner) if handler.response_streaming else self._answering(method, inner)
        # What is wrapped gives bytes: whom they are for decides how they are made.
        made: MethodHandler = make(wrapped, handler.request_deserializer, None)
        return made

    def refuse_all(self) -> None:
        """Have the calls in flight end with a reason, before the listener cuts them without one."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()

    def _answering(self, method: _Method, inner: Callable[[Any, Context], Awaitable[Message | Encoded]]) -> Handler:
        async def serve(request: Any, context: Context) -> bytes | None:
            started, task = time.perf_counter(), _this_task()
            principal: Principal | None = None
            code = "OK"
            try:
                self._tasks.add(task)
                principal = self._enter(method, context)
                request = self._checked(method, request, principal)
                if method.changes and not self._public:
                    remember(getattr(request, "uid", ""), current_call().request_id)
                answer = await inner(request, context)
                if method.changes:
                    log.info("call done", **_about(request, answer))
                return answer.data if isinstance(answer, Encoded) else method.serializers[principal.audience](answer)
            except BaseException as error:
                code, status = self._failure(method, error, principal)
                if status is None:
                    raise
                await context.abort_with_status(status)
            finally:
                self._tasks.discard(task)
                self._leave(method, principal)
                method.meter.ended(code, time.perf_counter() - started)

        return serve

    def _streaming(self, method: _Method, inner: Callable[[Any, Context], AsyncIterator[Message]]) -> Handler:
        async def serve(request: Any, context: Context) -> AsyncIterator[bytes]:
            started, task = time.perf_counter(), _this_task()
            principal: Principal | None = None
            code = "OK"
            try:
                self._tasks.add(task)
                principal = self._enter(method, context)
                request = self._checked(method, request, principal)
                serialize = method.serializers[principal.audience]
                async with aclosing(inner(request, context)) as messages:  # type: ignore[type-var]  # wrap() saw a generator
                    async for message in messages:
                        yield serialize(message)
            except BaseException as error:
                code, status = self._failure(method, error, principal)
                if status is None:
                    raise
                await context.abort_with_status(status)
            finally:
                self._tasks.discard(task)
                self._leave(method, principal)
                method.meter.ended(code, time.perf_counter() - started)

        return serve

    def _enter(self, method: _Method, context: Context) -> Principal:
        """Bind the call's context; raises if this principal may not make this call now. What it counted, _leave() takes back."""
        request_id = _request_id(context)
        try:
            principal = self._principal_of(context)
        except Exception:
            bind(request_id=request_id, method=method.path)
            raise
        bind(request_id=request_id, method=method.path, principal=principal.name)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        if principal.audience < method.audience:
            raise PermissionDenied(
                "METHOD_NOT_YOURS", f"{method.name} is for operators only", fix="ask an operator of this cloud", method=method.path
            )
        self._count(method, principal)
        CALL.set(Call(principal, request_id, deadline))
        return principal

    def _count(self, method: _Method, principal: Principal) -> None:
        most = self._limits.streams if method.is_stream else self._limits.unary
        key = (principal.name, method.is_stream)
        if self._calls[key] >= most:
            what = "open streams" if method.is_stream else "calls in flight"
            raise ResourceExhausted(
                "TOO_MANY_CALLS", f"{principal.name} has {most} {what}, the limit", fix="end some of them first", limit=most
            )
        self._calls[key] += 1

    def _leave(self, method: _Method, principal: Principal | None) -> None:
        if principal is None:
            return
        key = (principal.name, method.is_stream)
        self._calls[key] -= 1
        if not self._calls[key]:
            del self._calls[key]

    def _checked(self, method: _Method, request: Any, principal: Principal) -> Any:
        """Return the request once checked, or the stream that checks each of its messages as it is read."""
        if method.takes_stream:
            return _checked_stream(method.check, request, principal.audience)
        method.check(request, principal.audience)
        return request

    def _failure(self, method: _Method, error: BaseException, principal: Principal | None) -> tuple[str, grpc.Status | None]:
        """Return the code to count and the status to send; no status means that the exception itself must go on."""
        call = CALL.get()
        if isinstance(error, asyncio.CancelledError) and self._is_ending:
            _this_task().uncancel()
            error = Unavailable("PROCESS_ENDING", "this process ends", fix="try again: another one answers, or this one started anew")
        if isinstance(error, asyncio.CancelledError) and not is_being_cancelled():
            # Something that the handler awaited was cancelled. gRPC would send nothing at all, and the caller wait for ever.
            error = Unavailable("INTERRUPTED", f"{method.name} was interrupted", fix="look whether it happened, then try again")
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            passed = call is not None and call.deadline is not None and call.deadline <= time.monotonic()
            return ("DEADLINE_EXCEEDED" if passed else "CANCELLED"), None
        if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            return "UNKNOWN", None
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded("TOO_SLOW", f"{method.name} did not end in time", fix="look whether it happened, then try again")
        if not isinstance(error, Error):
            incident = new_uid()
            log.exception("call failed unexpectedly", error=error, incident=incident)
            message = f"an internal error was recorded as incident {incident}"
            shown = Internal("INTERNAL", message, fix="report the incident id to the operators", incident=incident)
            return "INTERNAL", for_abort(to_status(shown))
        say = log.info if error.code in _EXPECTED else log.warning
        say("call refused", code=error.code, reason=error.reason, why=error.message)
        violations = error.violations if isinstance(error, InvalidRequest) else ()
        audience = principal.audience if principal is not None else Audience.TENANT
        return error.code, for_abort(to_status(self._errors.apply(error, audience), violations=violations))


async def _unimplemented(_request: Any, context: Context) -> Message:
    """Stand in for a method that the servicer left as it was generated."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server does not offer the method yet")


async def _unimplemented_stream(_request: Any, context: Context) -> AsyncIterator[Message]:
    yield await _unimplemented(_request, context)


async def _checked_stream(check: Check, messages: AsyncIterator[Message], audience: Audience) -> AsyncIterator[Message]:
    async for message in messages:
        check(message, audience)
        yield message


def _this_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None, "a handler runs in a task"
    return task


def _about(request: Any, answer: Any) -> dict[str, str]:
    """Return the name and uid of what a call was about, as far as it says."""
    found = {key: getattr(answer, key, "") or getattr(request, key, "") for key in ("name", "uid")}
    return {key: value for key, value in found.items() if isinstance(value, str) and value}


def _request_id(context: Context) -> str:
    """Return the caller's request id if it sent a decent one, else a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return new_uid()


def _kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"
