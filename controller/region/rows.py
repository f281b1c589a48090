"""Keeps rows of lists as they travel, until their records change; what a row shows is its noun's.

To decode, show and encode a record costs tens of microseconds, and a page has a thousand.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from kumo.rpc.call import Audience
from kumo.rpc.views import serializer
from kumo.store.record import Entry

# Some 5 MiB where rows are servers.
_MOST = 5_000


class Rows:
    """The rows of one repeated field, each with its tag and length, by audience."""

    def __init__(self, field: FieldDescriptor) -> None:
        assert field.message_type is not None
        self._kind = field.message_type
        self._tag = _varint(field.number << 3 | 2)
        self._kept: dict[tuple[str, Audience], tuple[Entry, bytes]] = {}

    def of(self, entry: Entry, audience: Audience, show: Callable[[Entry], Any]) -> bytes:
        """Return the row of `entry`, which `show` makes where it is not kept."""
        kept = self._kept.get((entry.uid, audience))
        if kept is not None and kept[0] is entry:
            return kept[1]
        row = self.made(entry, audience, show)
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept[entry.uid, audience] = (entry, row)
        return row

    def made(self, entry: Entry, audience: Audience, show: Callable[[Entry], Any]) -> bytes:
        """Return the row of `entry` and keep nothing."""
        data = serializer(self._kind, audience)(show(entry))
        return self._tag + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Source: Protocol Buffers, encoding of base 128 varints."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
