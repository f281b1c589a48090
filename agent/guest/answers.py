"""Answers one HTTP request of one port: metadata, a session token, or that its server is ready. Sockets are others' business."""

import json
import os
import secrets
from datetime import UTC, datetime

from agent.guest.exposition import Metrics
from agent.guest.files import GuestFiles, PortAnswer
from agent.guest.http import Request, Response
from agent.guest.limits import RateLimit, Tokens
from agent.guest.metadata import respond
from kumo.log import get_logger

log = get_logger(__name__)

READY_PATH = "/kumo/v1/ready"
_TOKEN_PATH = "/latest/api/token"
_TOKEN_HEADER = "x-aws-ec2-metadata-token"
_TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
_LONGEST_TTL_S = 21_600
_TOO_MANY = Response(429, b"too many requests\n", headers=(("Retry-After", "1"),))


class Answers:
    """Looks up who asks and what is said. No header of a request says who asks."""

    def __init__(self, files: GuestFiles, metrics: Metrics) -> None:
        self._files = files
        self._metrics = metrics
        self._rate = RateLimit(per_second=50, burst=200)
        self._ready_rate = RateLimit(per_second=1, burst=5)
        self._tokens = Tokens()

    def to(self, bridge: str, address: str, request: Request, now: float) -> Response:
        """Return the answer to a request from `address` in the network of `bridge`; `now` is monotonic."""
        port = self._files.asking(bridge, address)
        if port is None:
            return Response(404, b"not found\n")
        if not self._rate.allows(port.uid, now):
            return _TOO_MANY
        match request.method:
            case "PUT" if request.path == READY_PATH:
                return self._ready(port) if self._ready_rate.allows(port.uid, now) else _TOO_MANY
            case "PUT" if request.path == _TOKEN_PATH:
                return self._token(port, request, now)
            case "GET" | "HEAD":
                return self._metadata(port, request, now)
            case _:
                return Response(405, b"method not allowed\n", headers=(("Allow", "GET, HEAD"),))

    def _metadata(self, port: PortAnswer, request: Request, now: float) -> Response:
        token = request.headers.get(_TOKEN_HEADER)
        if token is not None and not self._tokens.is_valid(token, port.uid, now):
            return Response(401, b"the token is not this server's, or is no longer valid\n")
        server = self._files.server(port.server_uid)
        if server is None:
            return Response(503, b"the metadata is not here yet\n", headers=(("Retry-After", "1"),))
        found = respond(request.path, port, server)
        return found if request.method == "GET" else Response(found.code, b"", found.kind)

    def _token(self, port: PortAnswer, request: Request, now: float) -> Response:
        asked = request.headers.get(_TTL_HEADER, "")
        if not (asked.isascii() and asked.isdigit() and len(asked) <= 5 and 1 <= int(asked) <= _LONGEST_TTL_S):
            return Response(400, f"{_TTL_HEADER} must be 1 to {_LONGEST_TTL_S}\n".encode())
        token = secrets.token_urlsafe(32)
        self._tokens.add(token, port.uid, now + int(asked))
        return Response(200, token.encode(), headers=((_TTL_HEADER, asked),))

    def _ready(self, port: PortAnswer) -> Response:
        """Leave a mark that outlives this process and the agent."""
        mark = self._files.ready / port.server_uid
        fresh = mark.with_name(f".{port.server_uid}.new")
        try:
            fresh.write_text(json.dumps({"time": datetime.now(UTC).isoformat(), "port": port.uid}))
            os.replace(fresh, mark)
        except OSError as error:
            log.error("ready mark not written", server=port.server_uid, why=str(error))
            return Response(503, b"try again\n", headers=(("Retry-After", "1"),))
        self._metrics.count("kumo_guest_ready_total")
        log.info("guest is ready", server=port.server_uid, port=port.uid)
        return Response(200, b"ok\n")
