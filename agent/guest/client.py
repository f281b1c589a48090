"""The agent's end of the responder's Unix socket: asks what it listens on, and hands it sockets. See handover.py."""

import asyncio
import json
import socket
from pathlib import Path

from agent.guest.handover import MOST_BYTES
from kumo.errors import Unavailable

_TIMEOUT_S = 5.0


class ResponderClient:
    """One connection a question: there is nothing to keep alive."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def held(self) -> frozenset[str] | None:
        """Return the names of the sockets that are held; None if no responder runs."""
        return await self._ask({"do": "held"})

    async def give(self, name: str, heard: socket.socket) -> None:
        await self._ask({"do": "give", "name": name}, heard)

    async def drop(self, name: str) -> None:
        await self._ask({"do": "drop", "name": name})

    async def _ask(self, request: dict[str, str], heard: socket.socket | None = None) -> frozenset[str] | None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as connection:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await loop.sock_connect(connection, str(self._path))
                    socket.send_fds(connection, [json.dumps(request).encode()], [heard.fileno()] if heard is not None else [])
                    answer = await loop.sock_recv(connection, MOST_BYTES)
            except (FileNotFoundError, ConnectionError):
                return None
            except (TimeoutError, OSError) as error:
                raise Unavailable("RESPONDER_SILENT", f"the guest responder does not answer on {self._path}") from error
        return frozenset(json.loads(answer)["held"]) if answer else None
