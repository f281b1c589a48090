"""The channel that every process and the CLI dial with: TLS, keepalive, deadlines and request ids passed on, errors mapped back.

It retries nothing: whether a call may be repeated is known only to whoever makes it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, TypeVar

import grpc

from kumo.errors import DeadlineExceeded, Unavailable
from kumo.ids import new_uid
from kumo.lasting import is_being_cancelled
from kumo.origin import ORIGIN
from kumo.rpc.call import CALL, REQUEST_ID_KEY
from kumo.rpc.status import CALL_ENDED, from_rpc_error

if TYPE_CHECKING:  # the CLI dials with the roots alone, and should not wait for the certificate library to load
    from kumo.tls import Credentials

MIB = 1 << 20
# Together less than the five seconds in which a frozen peer has to be noticed, and the second more than the longest way there and
# back that is put up with, which is two seconds.
KEEPALIVE_S = 2.0
KEEPALIVE_TIMEOUT_S = 2.6
# Three times that way, for TCP, TLS and HTTP/2, and some more.
CONNECT_TIMEOUT_S = 7.0
# What the answer needs to travel back: the callee gives up this much earlier than its caller.
DEADLINE_MARGIN_S = 0.02

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # one connection a channel: channels to one address would share one otherwise
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 * MIB),
    ("grpc.max_send_message_length", 16 * MIB),
    ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
    # keepalive_timeout alone is not obeyed: without this one a frozen peer is noticed after a minute.
    ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
    ("grpc.http2.max_pings_without_data", 0),  # or pings on a silent watch end after the second
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT_S * 1000)),  # also the time that one attempt to connect may take
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3000),
    ("grpc.service_config_disable_resolution", 1),
    # A leader of a cell has a channel to each of a thousand hosts: nobody asks for traces, and buffers of TLS are small.
    ("grpc.enable_channelz", 0),
    ("grpc.max_channel_trace_event_memory_per_node", 0),
    ("grpc.tsi.max_frame_size", 4096),
)


def channel(address: str, credentials: "Credentials | bytes", *, server_name: str, default_timeout_s: float = 30.0) -> grpc.aio.Channel:
    """Return a channel to `address` (host:port), whose certificate must be for `server_name`.

    `credentials` are this process's own, or the roots alone for a client without a certificate. `default_timeout_s` bounds calls
    that have one answer and name no timeout; streams are bounded only by their own timeout and by the call being served.
    """
    made = grpc.ssl_channel_credentials(credentials) if isinstance(credentials, bytes) else credentials.for_channel()
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", server_name)]
    return Channel(grpc.aio.secure_channel(address, made, options=options), default_timeout_s)


class Cancellable(Protocol):
    """A call that can be given up."""

    def cancel(self) -> object: ...


C = TypeVar("C", bound=Cancellable)


@asynccontextmanager
async def opened(stream: C) -> AsyncIterator[C]:
    """Cancel `stream` at the end of the block: `async with opened(stub.WatchServers(request)) as changes`."""
    try:
        yield stream
    finally:
        stream.cancel()


class Channel(grpc.aio.Channel):
    """A grpc.aio channel whose calls raise kumo.errors and know the call that they are made in."""

    def __init__(self, inner: grpc.aio.Channel, default_timeout_s: float) -> None:
        self._inner = inner
        self._default_timeout_s = default_timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    # The generated stubs call these four with the path and the two functions of every method of a service; what the multi-callables
    # take and return is typed by the stubs, so that here nothing is lost by Any. grpc's own are made by who calls one first: a channel
    # keeps something of each for good.
    def unary_unary(self, method: str, *functions: Any, **named: Any) -> Any:
        return _Answered(partial(self._inner.unary_unary, method, *functions, **named), method, self._default_timeout_s)

    def stream_unary(self, method: str, *functions: Any, **named: Any) -> Any:
        return _Answered(partial(self._inner.stream_unary, method, *functions, **named), method, self._default_timeout_s)

    def unary_stream(self, method: str, *functions: Any, **named: Any) -> Any:
        return _Streamed(partial(self._inner.unary_stream, method, *functions, **named), method)

    def stream_stream(self, method: str, *functions: Any, **named: Any) -> Any:
        return _Streamed(partial(self._inner.stream_stream, method, *functions, **named), method)


class _Answered:
    """Makes calls that have one answer."""

    def __init__(self, make: Callable[[], Any], method: str, default_timeout_s: float) -> None:
        self._make, self._method, self._default_timeout_s = make, method, default_timeout_s

    @cached_property
    def _inner(self) -> Any:
        return self._make()

    async def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
        wait_for_ready: bool | None = None,
    ) -> Any:
        allowed = _timeout(self._method, self._default_timeout_s if timeout is None else timeout)
        call = _begin(self._inner, self._method, request, timeout=allowed, metadata=_metadata(metadata), wait_for_ready=wait_for_ready)
        try:
            return await call
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            _raise(error, self._method)


class _Streamed:
    """Opens calls that have many answers."""

    def __init__(self, make: Callable[[], Any], method: str) -> None:
        self._make, self._method = make, method

    @cached_property
    def _inner(self) -> Any:
        return self._make()

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
        wait_for_ready: bool | None = None,
    ) -> "Stream":
        allowed = _timeout(self._method, timeout)
        call = _begin(self._inner, self._method, request, timeout=allowed, metadata=_metadata(metadata), wait_for_ready=wait_for_ready)
        return Stream(call, self._method)


class Stream:
    """An open stream; whoever leaves before its end cancels it (see opened())."""

    def __init__(self, call: Any, method: str) -> None:
        self._call, self._method = call, method

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                yield message
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            _raise(error, self._method)

    async def read(self) -> Any:
        """Return the next message, or grpc.aio.EOF after the last."""
        try:
            return await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            _raise(error, self._method)

    async def write(self, message: Any) -> None:
        """Send one message. Raises what ended the call, if it has ended."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            _raise(error, self._method)
        except asyncio.InvalidStateError:
            await self.read()
            raise Unavailable(CALL_ENDED, f"{self._method} has ended", method=self._method) from None

    async def done_writing(self) -> None:
        await self._call.done_writing()

    def cancel(self) -> None:
        self._call.cancel()


def _begin(call: Any, method: str, request: Any, **options: Any) -> Any:
    """Begin a call. Raises Unavailable on a channel that was closed under its user, as when a peer's address has changed."""
    try:
        return call(request, **options)
    except grpc.aio.UsageError as error:
        raise Unavailable("CHANNEL_CLOSED", f"the connection for {method} was closed", method=method) from error


def _timeout(method: str, own_s: float | None) -> float | None:
    """Return the lesser of `own_s` and what remains of the call being served. Raises DeadlineExceeded if nothing does."""
    call = CALL.get()
    if call is None or call.deadline is None:
        return own_s
    remaining_s = call.deadline - time.monotonic() - DEADLINE_MARGIN_S
    if remaining_s <= 0:
        raise DeadlineExceeded("NO_TIME_LEFT", f"no time is left for {method}", fix="allow more time", method=method)
    return remaining_s if own_s is None else min(own_s, remaining_s)


def _metadata(own: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    call = CALL.get()
    request_id = call.request_id if call is not None else ORIGIN.get()
    return (*own, (REQUEST_ID_KEY, request_id or new_uid()))


def _raise(error: BaseException, method: str) -> NoReturn:
    """Raise what a grpc.aio call failed with as one of kumo.errors."""
    if isinstance(error, grpc.aio.AioRpcError):
        raise from_rpc_error(error) from error
    if is_being_cancelled():
        raise error
    # grpc.aio raises CancelledError also when the other side cancelled; let through, it would end this task for no reason.
    raise Unavailable("CALL_CANCELLED", f"{method} was cancelled by the other side", method=method) from error
