"""Reads what addresses a host has and what the links carry that they are on: the planes that its record says it is on. Blocks."""

import ipaddress
import socket
import struct
from collections.abc import Iterator

from agent.network import links
from agent.network import rtnetlink as nl
from kumo.api.agent.v1.agent_pb2 import HostAddress

_MOST = 256
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=BBBBI")


def addresses() -> list[HostAddress]:
    """Return the addresses of this network namespace, without those that mean something on their link alone. Raises OSError."""
    route = nl.Netlink()
    try:
        return sorted(_read(route), key=lambda one: (one.link, one.address))[:_MOST]
    finally:
        route.close()


def _read(route: nl.Netlink) -> Iterator[HostAddress]:
    carried = {link.index: link for link in links.dump(route)}
    for body in route.call(nl.RTM_GETADDR, nl.NLM_F_DUMP, _HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, _, _, _, index = _HEADER.unpack_from(body)
        found = nl.attributes(body[_HEADER.size :])
        packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if family not in (socket.AF_INET, socket.AF_INET6) or packed is None or index not in carried:
            continue
        address = ipaddress.ip_address(packed)
        if not address.is_link_local:
            yield HostAddress(address=str(address), link=carried[index].name, mtu=carried[index].mtu)
