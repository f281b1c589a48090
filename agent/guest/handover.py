"""Hands sockets to the responder over its Unix socket: the agent may open them in tenants' namespaces, the responder may not.

A request is one packet of JSON with at most one descriptor; the answer is what is held afterwards. Who connects must be root, by
the socket's mode. The responder binds before it reads its files: whoever finds nobody here finds himself in the files later.
"""

import json
import os
import socket
from pathlib import Path

DHCP = "dhcp"
MOST_BYTES = 1 << 16


class HandoverServer:
    """The responder's end. All methods return at once."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            self._server.bind(str(path))
        finally:
            os.umask(before)
        self._server.listen(16)

    def fileno(self) -> int:
        return self._server.fileno()

    def accept(self) -> socket.socket | None:
        try:
            connection, _ = self._server.accept()
        except BlockingIOError:
            return None
        connection.setblocking(False)
        return connection


def receive(connection: socket.socket) -> tuple[str, str, socket.socket | None] | None:
    """Return what is asked, of which socket, and the socket that came along; None if the asker went away or asked nothing."""
    data, descriptors, _, _ = socket.recv_fds(connection, MOST_BYTES, 4)
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for other in sockets[1:]:
        other.close()
    try:
        request = json.loads(data)
        asked, name = str(request["do"]), str(request.get("name", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        for one in sockets[:1]:
            one.close()
        return None
    return asked, name, sockets[0] if sockets else None


def answer(connection: socket.socket, held: list[str]) -> None:
    connection.send(json.dumps({"held": held}).encode())
