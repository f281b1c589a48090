"""Hears what other hands change in the data plane and in packet rules, and says which link it was. Decides nothing.

A socket that overflowed has lost changes: then anything may have changed.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

from agent.network import links, netns
from agent.network import rtnetlink as nl
from agent.network.driver import RULES
from kumo.log import get_logger

log = get_logger(__name__)

_NETLINK_NETFILTER = 12
_GROUP_LINK, _GROUP_NEIGHBOUR = 1 << 0, 1 << 2
_GROUP_NFTABLES = 1 << 6
_BUFFER_BYTES = 1 << 20


class Events:
    """Calls `wake` with a link's name, RULES, or None for "look at everything". Belongs to the event loop that it was made on."""

    def __init__(self, plane: str, wake: Callable[[str | None], None]) -> None:
        self._wake = wake
        self._names: dict[int, str] = {}
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._listen(_NETLINK_NETFILTER, _GROUP_NFTABLES, self._on_rules)  # the host's own
        with netns.visit(plane):
            self._listen(_NETLINK_NETFILTER, _GROUP_NFTABLES, self._on_rules)
            self._listen(socket.NETLINK_ROUTE, _GROUP_LINK | _GROUP_NEIGHBOUR, self._on_links)
            route = nl.Netlink()
        try:
            self._names = {link.index: link.name for link in links.dump(route)}
        finally:
            route.close()

    def close(self) -> None:
        for heard in self._sockets:
            self._loop.remove_reader(heard)
            heard.close()

    def _listen(self, protocol: int, groups: int, on_data: Callable[[bytes], None]) -> None:
        heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        heard.bind((0, groups))
        self._sockets.append(heard)
        self._loop.add_reader(heard, self._read, heard, on_data)

    def _read(self, heard: socket.socket, on_data: Callable[[bytes], None]) -> None:
        try:
            for _ in range(64):
                on_data(heard.recv(1 << 16))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            log.warning("network events lost")
            self._wake(None)

    def _on_rules(self, _: bytes) -> None:
        self._wake(RULES)

    def _on_links(self, data: bytes) -> None:
        for kind, _, _, body in nl.messages(data):
            if kind in (nl.RTM_NEWLINK, nl.RTM_DELLINK):
                link = links.Link(body)
                self._names[link.index] = link.name
                self._wake(link.name)
                if kind == nl.RTM_DELLINK and body[0] != socket.AF_BRIDGE:  # that one says that it left a bridge
                    del self._names[link.index]
            elif kind in (nl.RTM_NEWNEIGH, nl.RTM_DELNEIGH):
                self._on_entry(kind, *struct.unpack_from("=4xiH", body))

    def _on_entry(self, kind: int, index: int, state: int) -> None:
        """What is gone may have been ours; what is new counts only if it does not age."""
        name = self._names.get(index)
        if name is not None and (kind == nl.RTM_DELNEIGH or state & (links.NUD_NOARP | links.NUD_PERMANENT)):
            self._wake(name)
