"""Speaks rtnetlink: packs requests, waits for answers, raises what the kernel said.

The general libraries for this cost a tenth of the memory that all of Kumo's processes may use, and ten times as long for a dump.
libvirt's hook, which runs before each start of a guest, uses this too: hence `_socket` and nothing that takes long to import.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK = 0x1, 0x2, 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 20, 22, 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

_SOL_NETLINK, _EXT_ACK, _STRICT = 270, 11, 12
_NLMSG_ERROR, _NLMSG_DONE, _ACK_TLVS, _CAPPED = 2, 3, 0x200, 0x100
_ERROR_TEXT = 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TIMEOUT_S = 10


def attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | 0x8000, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in `data` by kind, without the flags that may be on it; of two of one kind the last."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (kind, flags, sequence, body) of each message in `data`."""
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < 16:
            break
        yield kind, flags, sequence, data[at + 16 : at + length]
        at += (length + 3) & ~3


class Netlink:
    """A netlink socket of the namespace in which it was opened. Not for two threads at once."""

    def __init__(self, protocol: int = _socket.NETLINK_ROUTE) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def call(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Return the bodies of the answers. Raises OSError with the kernel's errno and words."""
        failure, answers = self.try_all([(kind, flags, body)])[0]
        if failure is not None:
            raise failure
        return answers

    def call_all(self, requests: Sequence[tuple[int, int, bytes]]) -> None:
        """Send all in one go; raises the first failure after all were tried."""
        for failure, _ in self.try_all(requests):
            if failure is not None:
                raise failure

    def try_all(self, requests: Sequence[tuple[int, int, bytes]]) -> list[tuple[OSError | None, list[bytes]]]:
        """Send all requests and return for each what failed and what was answered."""
        done: list[tuple[OSError | None, list[bytes]]] = []
        for start in range(0, len(requests), 64):  # the answers of so many fit a receive buffer
            done += self._try_some(requests[start : start + 64])
        return done

    def _try_some(self, requests: Sequence[tuple[int, int, bytes]]) -> list[tuple[OSError | None, list[bytes]]]:
        first = self._sequence + 1
        self._sequence += len(requests)
        packet = b"".join(
            _HEADER.pack(16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, first + index, 0) + body + bytes(-len(body) % 4)
            for index, (kind, flags, body) in enumerate(requests)
        )
        self._socket.send(packet)
        results: list[tuple[OSError | None, list[bytes]]] = [(None, []) for _ in requests]
        open_count = len(requests)
        while open_count:
            for kind, flags, sequence, body in messages(self._socket.recv(1 << 18)):
                index = sequence - first
                if not 0 <= index < len(requests):
                    continue  # the late answer of a request that timed out
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    results[index] = (_failure(kind, flags, body), results[index][1])
                    open_count -= 1
                else:
                    results[index][1].append(body)
        return results


def _failure(kind: int, flags: int, body: bytes) -> OSError | None:
    number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
    if number <= 0:
        return None
    words = os.strerror(number)
    if flags & _ACK_TLVS:
        skip = 4
        if kind == _NLMSG_ERROR:
            original = struct.unpack_from("=I", body, 4)[0]
            skip = 20 if flags & _CAPPED else 4 + ((original + 3) & ~3)
        said = attributes(body[skip:]).get(_ERROR_TEXT, b"").rstrip(b"\0").decode(errors="replace")
        words = f"{words} ({said})" if said else words
    return OSError(number, words)


def is_missing(error: OSError) -> bool:
    """Return whether the kernel said that what was to be removed or read is not there."""
    return error.errno in (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)
