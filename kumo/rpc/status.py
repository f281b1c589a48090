"""Translates kumo.errors to google.rpc.Status and back; the only place that knows both."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from kumo.errors import CLASSES, Error, Internal, Unavailable

DOMAIN = "kumo"
_BY_CODE = {cls.code: cls for cls in CLASSES}
_NUMBERS: dict[str, int] = {code.name: code.value[0] for code in grpc.StatusCode}
# What gRPC itself answers with, where no class of ours has that code.
_NEAREST = {"CANCELLED": Unavailable, "UNKNOWN": Internal, "DATA_LOSS": Internal}
# The reason of an error that no process of Kumo's raised: the peer could not be reached, or went away.
PEER_UNAVAILABLE = "PEER_UNAVAILABLE"
# The reason where the peer ended a stream while it was written to, so that why it did so is lost in grpc.aio.
CALL_ENDED = "CALL_ENDED"
_WHY_LOST = "Internal error from Core"
# When to ask again what is refused for now, unless the error's own `retry_after_s` says otherwise.
_RETRY_AFTER_S = 1
_RESERVED = frozenset({"reason", "message", "field", "fix"})


@dataclass(frozen=True)
class Violation:
    """One field of a request that breaks a rule."""

    field: str
    description: str
    reason: str = ""


def to_status(error: Error, *, violations: Iterable[Violation] = (), **metadata: str) -> status_pb2.Status:
    """Return what travels: the message, ErrorInfo, BadRequest if a field is named, RetryInfo if it is to be asked again.

    `metadata` is added to the error's own.
    """
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={**error.metadata, **metadata})
    if error.fix:
        info.metadata["fix"] = error.fix
    details = [_packed(info)]
    broken = list(violations) or ([Violation(error.field, error.message, error.reason)] if error.field else [])
    if broken:
        bad = error_details_pb2.BadRequest()
        for violation in broken:
            bad.field_violations.add(field=violation.field, description=violation.description, reason=violation.reason)
        details.append(_packed(bad))
    if isinstance(error, Unavailable):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = int(error.metadata.get("retry_after_s", _RETRY_AFTER_S))
        details.append(_packed(retry))
    return status_pb2.Status(code=_NUMBERS[error.code], message=error.message, details=details)


def for_abort(status: status_pb2.Status) -> grpc.Status:
    """Return `status` in the form that a servicer context's abort_with_status() takes."""
    made: grpc.Status = rpc_status.to_status(status)
    return made


def from_rpc_error(error: grpc.aio.AioRpcError) -> Error:
    """Return the error that the other side raised, or the nearest one for what gRPC itself reports."""
    code = error.code().name
    info, bad = _details(error)
    cls = _BY_CODE.get(code) or _NEAREST.get(code, Internal)
    message = error.details() or code
    if info is None and code == "INTERNAL" and message == _WHY_LOST:
        return Unavailable(CALL_ENDED, "the other side ended the stream while it was written to", fix="try again")
    if info is None:
        return cls(_transport_reason(code), message, code=code)
    metadata = dict(info.metadata)
    fix = metadata.pop("fix", "")
    field = bad.field_violations[0].field if bad is not None and bad.field_violations else ""
    kept = {key: value for key, value in metadata.items() if key not in _RESERVED}
    return cls(info.reason, message, field=field, fix=fix, **kept)


def _transport_reason(code: str) -> str:
    return {"UNAVAILABLE": PEER_UNAVAILABLE, "UNIMPLEMENTED": "METHOD_UNKNOWN", "CANCELLED": "CALL_CANCELLED"}.get(code, code)


def _details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo | None, error_details_pb2.BadRequest | None]:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    has_info = has_bad = False
    with contextlib.suppress(DecodeError, ValueError):  # a peer that sends garbage is read as one that sent nothing
        status = rpc_status.from_call(error)
        for detail in status.details if status is not None else ():
            has_info = detail.Unpack(info) or has_info
            has_bad = detail.Unpack(bad) or has_bad
    return info if has_info else None, bad if has_bad else None


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
