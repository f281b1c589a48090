"""gRPC in memory: channels and servers as grpc.aio makes them, on a network that is slow, loses, and is cut, as the world says.

What goes over it is bytes. A call runs on its server's node; a connection whose other end does not answer is given up after some
seconds, as keepalive does. Replies may be lost after the handler has done its work.
"""

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from tests.simulation.loop import NODE, Node, VirtualLoop

SILENCE_S = 3.5
CONNECT_S = 3.0
NOT_CONNECTED = "failed to connect to all addresses"
BROKEN = "Socket closed"
# What is sent one after the other arrives so.
_APART_S = 1e-6


@dataclass
class Weather:
    """How bad the network is now. `lossy`: the chance that the answer to a call, or the call, is lost with its connection."""

    lossy: float = 0.0
    slow_s: float = 0.0


class Wire:
    """Who listens where, what is cut, and every call under way."""

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self.loop, self.rng = loop, rng
        self.weather = Weather()
        self.cut: set[frozenset[str]] = set()
        self.servers: dict[str, Server] = {}
        self.calls: set[Call] = set()
        # What a caller's certificate says, by node name.
        self.identities: dict[str, bytes] = {}
        self._call_count = 0
        self.on_call: Callable[[str, str], None] = lambda _client, _path: None

    def count(self) -> int:
        self._call_count += 1
        return self._call_count

    # ---- the network

    def is_cut(self, one: Node, other: Node) -> bool:
        return one.machine != other.machine and frozenset((one.machine, other.machine)) in self.cut

    def latency_s(self) -> float:
        usual = self.rng.expovariate(1 / 0.0006)
        return 0.0002 + usual + (self.rng.uniform(0, self.weather.slow_s) if self.weather.slow_s else 0.0)

    async def keep(self) -> None:
        """Break what has been silent for too long; never returns."""
        while True:
            await asyncio.sleep(0.25)
            for call in sorted(self.calls, key=lambda call: call.number):
                call.look()

    def crashed(self, node: Node, *, is_power: bool) -> None:
        """Break the calls of a process that ended. With its machine's power, nobody is told."""
        for address in [address for address, server in self.servers.items() if server.node is node]:
            del self.servers[address]
        for call in sorted(self.calls, key=lambda call: call.number):
            if call.client is node:
                call.abandon()
            elif call.server is node and not is_power:
                self.loop.call_later(self.latency_s(), call.fail, grpc.StatusCode.UNAVAILABLE, BROKEN)

    # ---- what grpc.aio offers

    def channel(self, address: str, *_: Any, **__: Any) -> "Channel":
        return Channel(self, address, NODE.get())

    def server(self, *_: Any, **__: Any) -> "Server":
        return Server(self, NODE.get())


class Server:
    """What grpc.aio.server() returns: handlers by path, at one address."""

    def __init__(self, wire: Wire, node: Node) -> None:
        self.node, self._wire = node, wire
        self.handlers: dict[str, Any] = {}
        self._addresses: list[str] = []
        self.context = contextvars.copy_context()

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """The same once more."""

    def add_secure_port(self, address: str, _credentials: Any) -> int:
        self._addresses.append(address)
        return int(address.rpartition(":")[2])

    async def start(self) -> None:
        for address in self._addresses:
            self._wire.servers[address] = self

    async def stop(self, _grace: float | None) -> None:
        for address in self._addresses:
            if self._wire.servers.get(address) is self:
                del self._wire.servers[address]
        for call in sorted(self._wire.calls, key=lambda call: call.number):
            if call.server is self.node:
                call.fail(grpc.StatusCode.UNAVAILABLE, BROKEN)


class Channel(grpc.aio.Channel):
    """What grpc.aio.secure_channel() returns."""

    def __init__(self, wire: Wire, address: str, client: Node) -> None:
        self.wire, self.address, self.client = wire, address, client
        self.calls: set[Call] = set()
        self.is_closed = False

    def _make(self, path: str, kind: tuple[bool, bool], request_serializer: Any, response_deserializer: Any) -> Callable[..., "Call"]:
        def begin(request: Any = None, *, timeout: float | None = None, metadata: Any = (), **_: Any) -> Call:
            if self.is_closed:
                raise grpc.aio.UsageError("the channel is closed")
            call = Call(self, path, kind, (request_serializer, response_deserializer), timeout, tuple(metadata or ()))
            call.begin(request)
            return call

        return begin

    def unary_unary(self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any) -> Any:
        return self._make(method, (False, False), request_serializer, response_deserializer)

    def unary_stream(self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any) -> Any:
        return self._make(method, (False, True), request_serializer, response_deserializer)

    def stream_unary(self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any) -> Any:
        return self._make(method, (True, False), request_serializer, response_deserializer)

    def stream_stream(self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any) -> Any:
        return self._make(method, (True, True), request_serializer, response_deserializer)

    async def close(self, grace: float | None = None) -> None:
        self.is_closed = True
        for call in sorted(self.calls, key=lambda call: call.number):
            call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        if self.is_closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        server = self.wire.servers.get(self.address)
        is_reachable = server is not None and not self.wire.is_cut(self.client, server.node) and not server.node.is_paused
        return grpc.ChannelConnectivity.READY if is_reachable else grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        while self.get_state() == last_observed_state:  # noqa: ASYNC110  # the network tells nobody
            await asyncio.sleep(0.1)

    async def channel_ready(self) -> None:
        return


@dataclass
class _Way:
    """What is under way in one direction, and arrives in its order."""

    waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = field(default_factory=deque)
    is_timed: bool = False


class Call:
    """One call, seen from the client; the part on the server runs on its node."""

    def __init__(
        self, channel: Channel, path: str, kind: tuple[bool, bool], coders: tuple[Any, Any], timeout_s: float | None, metadata: Any
    ) -> None:
        wire = channel.wire
        self.number = wire.count()
        self.channel, self.path, self.metadata = channel, path, metadata
        self.client: Node = channel.client
        self.server: Node | None = None
        self._wire, self._loop = wire, wire.loop
        (self.takes_stream, self.gives_stream), (self._serialize, self._deserialize) = kind, coders
        self.deadline = None if timeout_s is None else wire.loop.time() + timeout_s
        # What has arrived here, and who waits for more.
        self._arrived: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: grpc.aio.AioRpcError | None = None
        self._is_over = False
        self._is_cancelled = False
        # The server's side.
        self._sent: deque[bytes | None] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_up = self._last_down = 0.0
        self._up, self._back = _Way(), _Way()
        self._blocked_since: float | None = None
        self._loses_answer = False

    # ---- the client's side

    def begin(self, request: Any) -> None:
        self._wire.calls.add(self)
        self.channel.calls.add(self)
        if self.deadline is not None:
            self._later(self.deadline - self._loop.time(), self.fail, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        body = None if self.takes_stream else self._encode(request)
        self._later(self._wire.latency_s(), self._connect, body, self._loop.time())
        if self.takes_stream and request is not None:
            self._pump = self._loop.create_task(self._write_all(request))

    async def _write_all(self, messages: AsyncIterator[Any]) -> None:
        try:
            async for message in messages:
                await self.write(message)
            await self.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        try:
            found = await self.read()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if found is grpc.aio.EOF:
            raise AssertionError(f"{self.path} ended without an answer")
        return found

    async def read(self) -> Any:
        """Return the next message; EOF after the last. A read that is cancelled ends the call, as in grpc.aio."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self._is_cancelled:
                raise asyncio.CancelledError
            if self._is_over:
                return grpc.aio.EOF
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
            finally:
                self._waiter = None
        return self._arrived.popleft()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def write(self, message: Any) -> None:
        if self._error is not None:
            raise self._error
        if self._is_over or self._is_cancelled:
            raise asyncio.InvalidStateError("the call has ended")
        self._push(self._encode(message))
        await asyncio.sleep(0)

    async def done_writing(self) -> None:
        self._push(None)

    def cancel(self) -> bool:
        if self._is_over or self._error is not None:
            return False
        self._is_cancelled = True
        self._end_server(self._wire.latency_s())
        self._finish()
        return True

    def abandon(self) -> None:
        """The client has died: the server learns it when the connection breaks."""
        self._end_server(self._wire.latency_s())
        self._forget()

    def _encode(self, message: Any) -> bytes:
        body: bytes = self._serialize(message) if self._serialize is not None else message
        return body

    # ---- on the way

    def _connect(self, body: bytes | None, began: float) -> None:
        if self._is_done():
            return
        server = self._wire.servers.get(self.channel.address)
        if server is None:
            self.fail(grpc.StatusCode.UNAVAILABLE, NOT_CONNECTED)
            return
        if self._wire.is_cut(self.client, server.node) or server.node.is_paused:
            if self._loop.time() - began > CONNECT_S:
                self.fail(grpc.StatusCode.UNAVAILABLE, NOT_CONNECTED)
            else:
                self._later(0.1, self._connect, body, began)
            return
        weather = self._wire.weather
        if weather.lossy and self._wire.rng.random() < weather.lossy:
            if self._wire.rng.random() < 0.5:
                # The call is lost with its connection. For all the caller can know, it was begun.
                given_up_s = self._wire.rng.uniform(0.0, 0.5)
                self._later(given_up_s, self.fail, grpc.StatusCode.UNAVAILABLE, BROKEN)
                if body is not None and self._wire.rng.random() < 0.5:
                    self._later(given_up_s + self._wire.rng.uniform(0.0, 2.0), self._arrive_late, body)
                return
            self._loses_answer = True
        self.server = server.node
        handler = server.handlers.get(self.path)
        if handler is None:
            self.fail(grpc.StatusCode.UNIMPLEMENTED, self.path)
            return
        context = server.context.copy()
        self._wire.on_call(self.client.name, self.path)
        self._task = self._loop.create_task(self._serve(handler, body), context=context)

    def _arrive_late(self, body: bytes) -> None:
        """Have the server do what its caller has given up long ago, and nobody waits for."""
        server = self._wire.servers.get(self.channel.address)
        if server is None or server.node.is_paused or self._wire.is_cut(self.client, server.node) or self.path not in server.handlers:
            return
        self._wire.on_call(self.client.name, f"{self.path}, late")
        task = self._loop.create_task(self._serve(server.handlers[self.path], body), context=server.context.copy())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _push(self, body: bytes | None) -> None:
        self._last_up = max(self._last_up + _APART_S, self._loop.time() + self._wire.latency_s())
        self._later(self._last_up - self._loop.time(), self._pass, self._up, self._reach_server, body)

    def _pass(self, way: "_Way", act: Callable[..., object], *arguments: Any) -> None:
        """Let something arrive after all that was sent before it. While the cable is cut it waits, as TCP would send it again."""
        way.waiting.append((act, arguments))
        self._flush(way)

    def _flush(self, way: "_Way") -> None:
        while way.waiting:
            if self.server is not None and self._wire.is_cut(self.client, self.server):
                if not way.is_timed:
                    way.is_timed = True
                    self._later(0.1, self._look_again, way)
                return
            act, arguments = way.waiting.popleft()
            act(*arguments)

    def _look_again(self, way: "_Way") -> None:
        way.is_timed = False
        if not self._is_done():
            self._flush(way)

    def _reach_server(self, body: bytes | None) -> None:
        self._sent.append(body)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def look(self) -> None:
        """Give up a connection whose other end has not answered for long."""
        if self.server is None or self._is_done():
            return
        is_blocked = self._wire.is_cut(self.client, self.server) or self.server.is_paused or not self.server.is_alive
        if not is_blocked:
            self._blocked_since = None
        elif self._blocked_since is None:
            self._blocked_since = self._loop.time()
        elif self._loop.time() - self._blocked_since > SILENCE_S:
            self._end_server(0.0)
            self.fail(grpc.StatusCode.UNAVAILABLE, "ping timeout")

    def fail(self, code: grpc.StatusCode, details: str, trailing: Any = ()) -> None:
        if self._is_done():
            return
        self._error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)
        self._end_server(0.0)
        self._finish()

    def _is_done(self) -> bool:
        return self._is_over or self._is_cancelled or self._error is not None

    def _finish(self) -> None:
        self._forget()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _forget(self) -> None:
        self._wire.calls.discard(self)
        self.channel.calls.discard(self)

    def _end_server(self, delay_s: float) -> None:
        if self._task is not None and not self._task.done():
            self._later(delay_s, self._task.cancel)

    def _later(self, delay_s: float, act: Callable[..., object], *arguments: Any) -> None:
        """The network is nobody's: it goes on while nodes pause."""
        self._loop.call_later(max(0.0, delay_s), act, *arguments, context=_NOBODY)

    # ---- the server's side

    async def _serve(self, handler: Any, body: bytes | None) -> None:
        context = Context(self)
        decode = handler.request_deserializer or (lambda data: data)
        encode = handler.response_serializer or (lambda data: data)
        request: Any = self._requests(decode) if self.takes_stream else decode(body)
        kinds = {(False, False): "unary_unary", (False, True): "unary_stream", (True, False): "stream_unary", (True, True): "stream_stream"}
        work = getattr(handler, kinds[(self.takes_stream, self.gives_stream)])
        try:
            if self.gives_stream:
                async for message in work(request, context):
                    self._reply(encode(message))
            else:
                answer = await work(request, context)
                self._reply(encode(answer))
        except grpc.aio.AbortError:
            self._down(self.fail, context.code, context.details, context.trailing)
        except Exception as error:
            self._down(self.fail, grpc.StatusCode.UNKNOWN, f"Unexpected {type(error).__name__}")
            raise
        else:
            self._down(self._over)

    async def _requests(self, decode: Any) -> AsyncIterator[Any]:
        while True:
            while not self._sent:
                self._reader = self._loop.create_future()
                await self._reader
            body = self._sent.popleft()
            if body is None:
                return
            yield decode(body)

    def _reply(self, body: bytes) -> None:
        self._down(self._arrive, body)

    def _down(self, act: Callable[..., object], *arguments: Any) -> None:
        """Send something back, in order; what is lost is lost with all that comes after it."""
        if self._loses_answer:
            self._later(self._wire.rng.uniform(0.0, 0.5), self.fail, grpc.StatusCode.UNAVAILABLE, BROKEN)
            return
        self._last_down = max(self._last_down + _APART_S, self._loop.time() + self._wire.latency_s())
        if self.gives_stream and self._wire.rng.random() < self._wire.weather.lossy / 4:
            # The connection breaks in the midst of what the server sends.
            self._later(self._last_down - self._loop.time(), self.fail, grpc.StatusCode.UNAVAILABLE, BROKEN)
            return
        self._later(self._last_down - self._loop.time(), self._pass, self._back, act, *arguments)

    def _arrive(self, body: bytes) -> None:
        if self._is_done():
            return
        self._arrived.append(self._deserialize(body) if self._deserialize is not None else body)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _over(self) -> None:
        if not self._is_done():
            self._is_over = True
            self._finish()


_NOBODY = contextvars.Context()


class Context:
    """What a handler is told of its call: grpc.aio.ServicerContext, as far as Kumo asks it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.code, self.details, self.trailing = grpc.StatusCode.UNKNOWN, "", ()

    def invocation_metadata(self) -> Any:
        return self._call.metadata

    def time_remaining(self) -> float | None:
        call = self._call
        return None if call.deadline is None else max(0.0, call.deadline - call.channel.wire.loop.time())

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        found = self._call.channel.wire.identities.get(self._call.client.name)
        return {"peer_spiffe_id": (found,)} if found else {}

    def peer(self) -> str:
        return self._call.client.name

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self.code, self.details, self.trailing = code, details, trailing_metadata
        raise grpc.aio.AbortError(details)

    async def abort_with_status(self, status: Any) -> None:
        await self.abort(status.code, status.details, status.trailing_metadata)
