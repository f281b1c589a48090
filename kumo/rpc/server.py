"""A gRPC listener with everything that every listener of Kumo needs: TLS, limits, keepalive, health, reflection, a graceful end."""

import asyncio
import ipaddress
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kumo.errors import FailedPrecondition
from kumo.log import get_logger
from kumo.rpc.identity import PrincipalOf
from kumo.rpc.interceptor import Interceptor, Limits, MethodHandler
from kumo.rpc.status import for_abort, to_status
from kumo.tls import ServerTls

log = get_logger(__name__)

Servicer = TypeVar("Servicer")
MIB = 1 << 20


@dataclass(frozen=True)
class Port:
    """What differs between the kinds of listeners."""

    public: bool
    max_request_bytes: int
    max_response_bytes: int
    max_connections: int
    max_connection_age_s: float
    keepalive_s: float
    keepalive_timeout_s: float
    limits: Limits


# Clients of the API: 1.5 MiB is the largest record, an upload's piece 1 MiB, a page of a list 1 MiB and one record.
PUBLIC = Port(True, 4 * MIB, 8 * MIB, 10_000, 3600.0, 20.0, 5.0, Limits(256, 256))
# Kumo's own processes: few peers, which carry the calls of many; whole records and batches of facts; a frozen peer is noticed within 5 s.
INTERNAL = Port(False, 16 * MIB, 16 * MIB, 4_096, 900.0, 2.0, 2.6, Limits(4_096, 4_096))

# Clients ping every 2 s (kumo.rpc.client); a server that expects less is told "too many pings" and hung up on.
LEAST_PING_INTERVAL_S = 1.0
CONNECTION_GRACE_S = 60.0
HANDSHAKE_TIMEOUT_S = 5.0
# Calls that are told that the process ends have so long to tell it; then they are cut, and their callers learn nothing of why.
_REFUSED_S = 0.5


class Server:
    """One listener. Services are added before start(); what they are wrapped in is built then, once a method."""

    def __init__(
        self,
        address: str,
        tls: ServerTls,
        principal_of: PrincipalOf,
        *,
        port: Port = PUBLIC,
        limits: Limits | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`address` is host:port, port 0 for any. Raises FailedPrecondition if anybody could reach it without a certificate."""
        host = address.rpartition(":")[0].strip("[]")
        if not tls.require_client and not _is_loopback(host):
            raise FailedPrecondition(
                "LISTENER_OPEN",
                f"{address} is not a loopback address, and callers would need neither token nor certificate",
                fix="listen on 127.0.0.1 or [::1]",
                address=address,
            )
        self._address, self._tls, self._port = address, tls, port
        self._principal_of, self._limits = principal_of, limits
        self._services: dict[str, Mapping[str, MethodHandler]] = {}
        self._disabled: dict[str, str] = {}
        age_s = port.max_connection_age_s * (rng or random.Random()).uniform(0.9, 1.1)
        self._server = grpc.aio.server(options=_options(port, age_s))
        self._health = health.aio.HealthServicer()
        self._interceptor: Interceptor | None = None
        self.bound_port = 0

    def add(self, add_to_server: Callable[[Servicer, grpc.Server | grpc.aio.Server], None], servicer: Servicer) -> None:
        """Offer `servicer`, by the function that is generated beside its class: add(add_ServersServicer_to_server, servers)."""
        add_to_server(servicer, cast(grpc.aio.Server, _Recorder(self._services)))

    def disable(self, service: ServiceDescriptor, fix: str) -> None:
        """Refuse every call of a service that is not offered here with UNIMPLEMENTED; `fix` says how to have it offered."""
        self._disabled[service.full_name] = fix

    @property
    def address(self) -> str:
        """host:port as bound, once started."""
        return f"{self._address.rpartition(':')[0]}:{self.bound_port}"

    async def start(self) -> int:
        """Listen; return the port. Raises FailedPrecondition if the address cannot be had."""
        pool = descriptor_pool.Default()
        services = [pool.FindServiceByName(name) for name in self._services]
        limits = self._limits or self._port.limits
        self._interceptor = Interceptor(self._principal_of, services, limits, public=self._port.public)
        for service in services:
            self._register(service, self._interceptor)
        self._server.add_generic_rpc_handlers((_Disabled(self._disabled),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        try:
            self.bound_port = self._server.add_secure_port(self._address, self._tls.credentials())
        except RuntimeError as error:
            raise FailedPrecondition(
                "ADDRESS_TAKEN",
                f"cannot listen on {self._address}",
                fix="stop what listens there, or choose another port",
                address=self._address,
            ) from error
        await self._server.start()
        await self.set_serving(True)
        log.info("listening", address=self.address, services=list(self._services))
        return self.bound_port

    async def stop(self, grace_s: float = 2.0) -> None:
        """Say that it is ending, refuse new calls, let those in flight end within `grace_s`, refuse the rest."""
        await self._health.enter_graceful_shutdown()
        async with asyncio.TaskGroup() as tasks:
            refusing = tasks.create_task(self._refuse_after(grace_s))
            await self._server.stop(grace_s + _REFUSED_S)
            refusing.cancel()

    async def _refuse_after(self, grace_s: float) -> None:
        await asyncio.sleep(grace_s)
        if self._interceptor is not None:
            self._interceptor.refuse_all()

    async def set_serving(self, serving: bool, service: str = "") -> None:
        """Answer health checks of `service`, or of the whole listener and each of its services, so from now on."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in [service] if service else ["", *self._services]:
            await self._health.set(name, state)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    def _register(self, service: ServiceDescriptor, interceptor: Interceptor) -> None:
        handlers = self._services[service.full_name]
        wrapped = {method.name: interceptor.wrap(method, handlers[method.name]) for method in service.methods}
        self._server.add_registered_method_handlers(service.full_name, wrapped)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, wrapped),))


class _Recorder:
    """Stands in for a server while generated code registers a servicer, to learn the handlers."""

    def __init__(self, services: dict[str, Mapping[str, MethodHandler]]) -> None:
        self._services = services

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, MethodHandler]) -> None:
        self._services[service_name] = method_handlers

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        """Generated code calls this as well, with the same handlers in a wrapping that tells less."""


class _Disabled(grpc.GenericRpcHandler):
    """Answers for services that are not offered, whatever the method."""

    def __init__(self, fixes: Mapping[str, str]) -> None:
        self._fixes = fixes

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        service = str(handler_call_details.method).strip("/").partition("/")[0]
        if service not in self._fixes:
            return None
        error = FailedPrecondition("SERVICE_DISABLED", f"{service} is switched off here", fix=self._fixes[service], service=service)
        status = to_status(error)
        status.code = grpc.StatusCode.UNIMPLEMENTED.value[0]

        async def refuse(_requests: Any, context: Any) -> None:
            await context.abort_with_status(for_abort(status))

        # On the wire, a call with one message is a stream of one.
        return grpc.stream_stream_rpc_method_handler(refuse)


def _options(port: Port, age_s: float) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # or a second process binds the same port and takes half of the calls, silently
        ("grpc.max_receive_message_length", port.max_request_bytes),
        ("grpc.max_send_message_length", port.max_response_bytes),
        ("grpc.max_allowed_incoming_connections", port.max_connections),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_TIMEOUT_S * 1000)),
        ("grpc.max_connection_age_ms", int(age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", int(CONNECTION_GRACE_S * 1000)),
        ("grpc.keepalive_time_ms", int(port.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(port.keepalive_timeout_s * 1000)),
        # keepalive_timeout alone is not obeyed: without this one a frozen peer is noticed after a minute.
        ("grpc.http2.ping_timeout_ms", int(port.keepalive_timeout_s * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", int(LEAST_PING_INTERVAL_S * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_metadata_size", 16 * 1024),
    ]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
