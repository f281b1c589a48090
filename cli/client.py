"""Calls to the API: a channel to the context's address, one deadline a call, and failures in three parts.

It knows methods by name and messages by class, so that no command loads stubs it does not need.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from cli.advice import command_for
from cli.contexts import Context
from cli.failure import Exit, Failure
from cli.terminal import say

M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)


class Stream(Protocol[M_co]):
    """The answers of a streaming call. Iterating raises grpc.RpcError, for callers that resume."""

    def __iter__(self) -> Iterator[M_co]: ...

    def cancel(self) -> object: ...


# A peer that froze is given up after 2 + 1 s; see ping_timeout_ms, without which keepalive does not notice for a minute.
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
)
_EXITS = {
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED: Exit.DENIED,
    grpc.StatusCode.UNAUTHENTICATED: Exit.DENIED,
    grpc.StatusCode.ALREADY_EXISTS: Exit.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: Exit.CONFLICT,
    grpc.StatusCode.ABORTED: Exit.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exit.NO_CAPACITY,
    grpc.StatusCode.UNAVAILABLE: Exit.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.UNAVAILABLE,
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
}


_MOST_LINES = 5


class Client:
    """A connection to one region. Calls raise Failure."""

    def __init__(self, context: Context, timeout_s: float = 10.0, verbose: bool = False) -> None:
        self.context = context
        self.timeout_s = timeout_s
        self.request_id = str(uuid.uuid4())
        self._verbose = verbose
        try:
            roots = context.ca.read_bytes()
        except OSError as error:
            raise Failure(
                f'cannot read the CA of context "{context.name}"',
                f"{context.ca}: {error.strerror}",
                "kumo context add, or `make up` for a cloud on this host",
                Exit.USAGE,
            ) from error
        if b"-----BEGIN CERTIFICATE-----" not in roots:
            raise Failure(
                f'cannot use the CA of context "{context.name}"', f"{context.ca} holds no certificate", _new_ca(context), Exit.USAGE
            )
        host, colon, port = context.address.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise Failure(
                f'"{context.address}" is no address',
                f'context "{context.name}" needs HOST:PORT',
                f"KUMO_ADDRESS={context.address.rstrip(':')}:7400, or kumo context add --help",
                Exit.USAGE,
            )
        options = [*_OPTIONS]
        if context.server_name:
            options.append(("grpc.ssl_target_name_override", context.server_name))
        self.channel = grpc.secure_channel(context.address, grpc.ssl_channel_credentials(roots), options=options)

    @property
    def parent(self) -> str:
        return f"projects/{self.context.project}"

    def close(self) -> None:
        self.channel.close()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", self.request_id),)

    def unary(self, method: str, request: Message, answer: type[M], *, doing: str, timeout_s: float | None = None) -> M:
        """Call `method` (kumo.api.compute.v1.Servers/GetServer). `doing` completes "cannot …" when it fails."""
        call = self.channel.unary_unary(f"/{method}", request_serializer=_serialize, response_deserializer=answer.FromString)
        started, outcome = time.monotonic(), "OK"
        try:
            return call(request, timeout=timeout_s or self.timeout_s, metadata=self._metadata())
        except grpc.RpcError as error:
            outcome = error.code().name if isinstance(error, grpc.Call) else "failed"
            raise failure(error, doing, self.context, self.request_id) from error
        finally:
            self._tell(method, f"{outcome} {1000 * (time.monotonic() - started):.0f} ms")

    def stream(self, method: str, request: Message, answer: type[M], *, timeout_s: float | None = None) -> Stream[M]:
        """Open a server stream; iterating raises grpc.RpcError, for callers that resume."""
        self._tell(method, "opened")
        call = self.channel.unary_stream(f"/{method}", request_serializer=_serialize, response_deserializer=answer.FromString)
        return call(request, timeout=timeout_s, metadata=self._metadata())

    def duplex(self, method: str, requests: Iterable[Message], answer: type[M]) -> Stream[M]:
        """Open a stream both ways; iterating raises grpc.RpcError."""
        self._tell(method, "opened")
        call = self.channel.stream_stream(f"/{method}", request_serializer=_serialize, response_deserializer=answer.FromString)
        return call(iter(requests), metadata=self._metadata())

    def _tell(self, method: str, outcome: str) -> None:
        if self._verbose:
            say(f"{method}: {outcome}, request id {self.request_id}")


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def failure(error: grpc.RpcError, doing: str, context: Context, request_id: str = "") -> Failure:
    """Return what to tell the user of a failed call."""
    if not isinstance(error, grpc.Call):
        return Failure(f"cannot {doing}", str(error))
    code, details = error.code(), error.details() or ""
    rich = _rich(error)
    if rich is None and code is grpc.StatusCode.UNAVAILABLE:
        because, fix = _unreachable(details, context)
        return Failure(f"cannot {doing}", because, fix, Exit.UNAVAILABLE, "UNREACHABLE")
    if rich is None and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(
            f"cannot {doing}",
            f"{context.address} did not answer in time; it may still do what was asked",
            "look at the resource, then try again",
            Exit.UNAVAILABLE,
            "TIMEOUT",
        )
    reason, fix, violations = rich or ("", "", [])
    because = _because(details, violations)
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and request_id:
        because += f"\nrequest id {request_id}"
    return Failure(f"cannot {doing}", because, fix or _default_fix(code), _EXITS.get(code, Exit.FAILED), reason)


def _because(details: str, violations: Sequence[tuple[str, str]]) -> str:
    """Return each violated rule once, with its field; what the status says besides comes first."""
    lines = [text if field == "name" or field in text else f"{field}: {text}" for field, text in violations]
    if not any(text in details for _, text in violations):
        lines.insert(0, details)
    more = len(lines) - _MOST_LINES
    return "\n".join([*lines[:_MOST_LINES], f"and {more} more"] if more > 0 else lines)


def _unreachable(details: str, context: Context) -> tuple[str, str]:
    """Return why nobody answers, and what to do, from gRPC's own words."""
    where = f'{context.address} (context "{context.name}")'
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"the certificate of {where} does not come from the CA in {context.ca}", _new_ca(context)
    if "Hostname Verification" in details:
        name = context.server_name or context.address.rpartition(":")[0]
        return f'the certificate of {where} is not for "{name}"', f"{_new_ca(context)} --server-name NAME"
    if "onnection refused" in details:
        return f"nothing listens at {where}", "kumo doctor"
    if "errors resolving" in details:
        return f"the host of {where} has no address", "kumo context list"
    return f"{where} does not answer: {_first_line(details)}", "kumo doctor"


def _new_ca(context: Context) -> str:
    return f"kumo context add {context.name} --address {context.address} --ca FILE"


def _rich(error: grpc.Call) -> tuple[str, str, list[tuple[str, str]]] | None:
    """Return reason, fix and violations (field, text) out of the status details; None where there are none, as from a dead peer."""
    raw = next((value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"), None)
    if raw is None:
        return None
    from google.rpc import error_details_pb2, status_pb2

    reason, fix, violations = "", "", []
    for detail in status_pb2.Status.FromString(raw if isinstance(raw, bytes) else raw.encode()).details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason, fix = info.reason, command_for(info.reason, info.metadata.get("fix", fix), info.metadata)
        elif detail.Unpack(bad):
            violations += [(violation.field, violation.description) for violation in bad.field_violations]
    return reason, fix, violations


def _default_fix(code: grpc.StatusCode) -> str:
    match code:
        case grpc.StatusCode.ABORTED:
            return "somebody changed it meanwhile: look again, then try again"
        case grpc.StatusCode.UNAVAILABLE:
            return "try again in a few seconds; kumo doctor says what is wrong"
        case grpc.StatusCode.INTERNAL:
            return "report it with the incident id"
        case _:
            return ""


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else "no reason given"
