"""The loop of the responder: sockets, timeouts and limits. What is said comes from dhcp.py and answers.py.

One thread and a selector: asyncio would double the memory of this process, which runs on every host.
"""

import os
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from agent.guest import dhcp, handover, http
from agent.guest.answers import Answers
from agent.guest.exposition import Metrics
from agent.guest.files import GuestFiles
from agent.guest.handover import DHCP, HandoverServer
from agent.guest.http import Progress, Response
from agent.guest.limits import RateLimit
from kumo.log import get_logger

log = get_logger(__name__)

_TICK_S = 1.0
_CONNECTION_S = 10.0
_MOST_CONNECTIONS = 512
_MOST_OF_GUEST = 8
_MOST_FRAMES_AT_ONCE = 32
_FRAME_BYTES = 2048
_ETH_P_IP = 0x0800
_REFUSALS = {Progress.MALFORMED: Response(400, b"bad request\n"), Progress.TOO_LARGE: Response(413, b"too large\n")}


@dataclass(eq=False)
class _Connection:
    """One connection of a guest (or of a scraper, whose `bridge` is empty), and how far it is."""

    socket: socket.socket
    bridge: str
    address: str
    until: float
    received: bytes = b""
    outgoing: bytes = b""


class Server:
    """Answers guests until it is told to stop. Everything it holds was opened by somebody with more rights."""

    def __init__(self, files: GuestFiles, handovers: HandoverServer, scrapes: socket.socket | None) -> None:
        self._files = files
        self._metrics = Metrics()
        self._answers = Answers(files, self._metrics)
        self._selector = selectors.DefaultSelector()
        self._held: dict[str, socket.socket] = {}
        self._connections: set[_Connection] = set()
        self._of_guest: Counter[tuple[str, str]] = Counter()
        self._dhcp_rate = RateLimit(per_second=10, burst=30)
        self._log_rate = RateLimit(per_second=0.1, burst=2)  # a guest shall not fill the host's disk with its name
        self._handovers = handovers
        self._stopping = False
        self._metrics.set("kumo_build_info", 1, 'process="kumo-guest-responder"')
        self._watch(handovers, self._on_handover)
        if scrapes is not None:
            self._watch(scrapes, lambda: self._on_accept("", scrapes))

    def hold(self, name: str, heard: socket.socket) -> None:
        """Listen on a socket: DHCP's, or that of the bridge of that name. An earlier one of the name is closed."""
        self.release(name)
        heard.setblocking(False)
        self._held[name] = heard
        self._watch(heard, self._on_dhcp if name == DHCP else lambda: self._on_accept(name, heard))
        self._metrics.set("kumo_guest_networks", len(self._held.keys() - {DHCP}))

    def release(self, name: str) -> None:
        heard = self._held.pop(name, None)
        if heard is not None:
            self._selector.unregister(heard)
            heard.close()
            for connection in [one for one in self._connections if one.bridge == name]:
                self._end(connection)
        self._metrics.set("kumo_guest_networks", len(self._held.keys() - {DHCP}))

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        wake_read, wake_write = os.pipe()
        for end in (wake_read, wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._selector.register(wake_read, selectors.EVENT_READ, lambda: os.read(wake_read, 64))
        tick_at = time.monotonic() + _TICK_S
        while not self._stopping:
            for key, _ in self._selector.select(max(0.0, tick_at - time.monotonic())):
                key.data()
            now = time.monotonic()
            if now >= tick_at:
                self._metrics.observe_lag(now - tick_at)
                self._end_late(now)
                tick_at = now + _TICK_S

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _watch(self, watched: socket.socket | HandoverServer, on_readable: Callable[[], object]) -> None:
        self._selector.register(watched, selectors.EVENT_READ, on_readable)

    # ---- DHCP

    def _on_dhcp(self) -> None:
        heard = self._held[DHCP]
        for _ in range(_MOST_FRAMES_AT_ONCE):
            try:
                frame, source = heard.recvfrom(_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("dhcp socket failed", why=str(error))
                return
            try:
                result = self._dhcp(heard, frame, source[0])
            except Exception as error:  # one guest's file or frame must not silence all the others
                log.exception("dhcp answer failed", error=error, bridge=source[0])
                result = "failed"
            self._metrics.count("kumo_guest_dhcp_requests_total", f'result="{result}"')

    def _dhcp(self, heard: socket.socket, frame: bytes, bridge: str) -> str:
        mac = frame[6:12].hex(":")
        if not self._dhcp_rate.allows(f"{bridge} {mac}", time.monotonic()):
            return "limited"
        port = self._files.asking(bridge, mac)
        if port is None:
            return "unknown"
        said = dhcp.answer(frame, port)
        if said is None:
            return "ignored"
        kind, reply = said
        try:
            # Straight into the tap, past bridge and rules: nobody else can see or forge it.
            heard.sendto(reply, (port.tap, _ETH_P_IP))
        except OSError:
            return "unplugged"
        if kind is dhcp.Kind.ACK and self._log_rate.allows(port.uid, time.monotonic()):
            log.info("address given", port=port.uid, address=port.address)
        return kind.name.lower()

    # ---- HTTP

    def _on_accept(self, bridge: str, listener: socket.socket) -> None:
        try:
            accepted, peer = listener.accept()
        except OSError:
            return
        address = str(peer[0])
        full = len(self._connections) >= _MOST_CONNECTIONS
        if full or self._of_guest[bridge, address] >= _MOST_OF_GUEST:
            self._metrics.count("kumo_guest_refused_connections_total", f'limit="{"all" if full else "guest"}"')
            accepted.close()
            return
        accepted.setblocking(False)
        connection = _Connection(accepted, bridge, address, time.monotonic() + _CONNECTION_S)
        self._connections.add(connection)
        self._of_guest[bridge, address] += 1
        self._metrics.set("kumo_guest_connections", len(self._connections))
        self._watch(accepted, lambda: self._on_readable(connection))

    def _on_readable(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(http.MOST_HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(connection)
            return
        connection.received += data
        found = http.read(connection.received)
        if found is Progress.MORE:
            return
        response = self._respond(connection, found) if isinstance(found, http.Request) else _REFUSALS[found]
        if connection.bridge:
            self._metrics.count("kumo_guest_http_requests_total", f'code="{response.code}"')
        connection.outgoing = http.write(response)
        self._selector.modify(connection.socket, selectors.EVENT_WRITE, lambda: self._on_writable(connection))
        self._on_writable(connection)

    def _respond(self, connection: _Connection, request: http.Request) -> Response:
        if connection.bridge:
            try:
                return self._answers.to(connection.bridge, connection.address, request, time.monotonic())
            except Exception as error:  # as above
                log.exception("answer failed", error=error, bridge=connection.bridge)
                return Response(500, b"failed\n")
        if request.method != "GET" or request.path != "/metrics":
            return Response(404, b"only GET /metrics is here\n")
        return Response(200, self._metrics.text().encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _on_writable(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.outgoing)
        except BlockingIOError:
            return
        except OSError:
            self._end(connection)
            return
        connection.outgoing = connection.outgoing[sent:]
        if not connection.outgoing:
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        guest = (connection.bridge, connection.address)
        self._of_guest[guest] -= 1
        if not self._of_guest[guest]:
            del self._of_guest[guest]
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._metrics.set("kumo_guest_connections", len(self._connections))

    def _end_late(self, now: float) -> None:
        for connection in [one for one in self._connections if one.until <= now]:
            self._end(connection)

    # ---- sockets from the agent

    def _on_handover(self) -> None:
        connection = self._handovers.accept()
        if connection is not None:
            self._watch(connection, lambda: self._on_request(connection))

    def _on_request(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        with connection:
            try:
                request = handover.receive(connection)
                if request is None:
                    return
                asked, name, heard = request
                if asked == "give" and heard is not None and name:
                    self.hold(name, heard)
                elif heard is not None:
                    heard.close()
                if asked == "drop":
                    self.release(name)
                handover.answer(connection, sorted(self._held))
            except OSError as error:
                log.warning("handover failed", why=str(error))
