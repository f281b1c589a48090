"""Opens the sockets on which guests are heard, in the namespaces where they are. Needs CAP_SYS_ADMIN and CAP_NET_RAW; no other code does.

A socket stays in its namespace and works on without either capability. Standard library only.
"""

import ctypes
import socket
import struct

from agent.network import names, netns

_SO_ATTACH_FILTER, _SO_LOCK_FILTER = 26, 44
_ETH_P_IP = 0x0800
_BACKLOG = 64

# Classic BPF: IPv4, UDP, first fragment, destination port 67; from `tcpdump -dd 'udp dst port 67'` and RFC 2131.
_DHCP_ONLY = (
    (0x28, 0, 0, 12),  # ether type
    (0x15, 0, 8, _ETH_P_IP),
    (0x30, 0, 0, 23),  # protocol
    (0x15, 0, 6, socket.IPPROTO_UDP),
    (0x28, 0, 0, 20),  # fragment
    (0x45, 4, 0, 0x1FFF),
    (0xB1, 0, 0, 14),  # header length
    (0x48, 0, 0, 16),  # destination port
    (0x15, 0, 1, 67),
    (0x06, 0, 0, 0x40000),
    (0x06, 0, 0, 0),
)


def open_dhcp(plane: str) -> socket.socket:
    """Return a socket that hears DHCP in the data plane and nothing else, whoever holds it: its filter is locked.

    Frames that a bridge only forwards never reach it; the rules turn what guests ask by DHCP into a broadcast, which does.
    """
    with netns.visit(plane):
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_IP))
    code = b"".join(struct.pack("=HBBI", *step) for step in _DHCP_ONLY)
    program = ctypes.create_string_buffer(code)
    heard.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_DHCP_ONLY), ctypes.addressof(program)))
    heard.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
    try:
        while True:
            heard.recv(1)  # what came before the filter
    except BlockingIOError:
        return heard


def open_listener(namespace: str) -> socket.socket:
    """Return a socket that listens for metadata requests in one network. Its answers do not pass a router."""
    with netns.visit(namespace):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        listener.bind((names.METADATA_ADDRESS, names.METADATA_PORT))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
