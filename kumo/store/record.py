"""Splits a record's message into the parts that are stored and joins them again; knows the fields that every record has.

The parts are messages of the record's own type with different fields set, so that joining them is setting their serialized
forms one behind the other, as protobuf promises.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
Indexes = Mapping[str, Callable[[M], Iterable[str]]]


class Entry(NamedTuple):
    """A record as a mirror holds it: serialized parts (empty when absent), the revisions that wrote them (0)."""

    uid: str
    name: str
    intent: bytes
    intent_revision: int
    status: bytes
    status_revision: int
    placement: bytes
    placement_revision: int

    def size(self) -> int:
        return len(self.intent) + len(self.status) + len(self.placement)


@dataclass(frozen=True)
class Reference:
    """What a record says of another one: its type and uid, its name for messages, the field that names it.

    An owned record goes with the one it refers to: it does not keep it from being deleted.
    """

    target: type[Message]
    uid: str
    name: str = ""
    field: str = ""
    owned: bool = False


@dataclass(frozen=True)
class Parts(Generic[M]):
    """The parts of one record with the revisions that wrote them; 0 and None for a part that is not there."""

    intent: M
    intent_revision: int
    status: M | None
    status_revision: int
    placement: M | None
    placement_revision: int


@dataclass(frozen=True)
class Etags:
    """Makes etags of one incarnation of a store: an etag from before a restore never fits a later record."""

    incarnation: str
    _tag: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tag", hashlib.sha256(self.incarnation.encode()).hexdigest()[:8])

    def of(self, revision: int) -> str:
        return f"{self._tag}-{revision:x}"

    def revision(self, etag: str) -> int:
        """Return the revision in `etag`, or -1, which no key has, for one that is not ours."""
        tag, _, revision = etag.partition("-")
        try:
            return int(revision, 16) if tag == self._tag else -1
        except ValueError:
            return -1


def table_name(message_type: type[Message]) -> str:
    return message_type.DESCRIPTOR.name.lower()


def fields(message: Message) -> Any:
    """Return `message` with the fields every record has reachable: no generated type can say that it has them."""
    return message


def has(message: Message, name: str) -> bool:
    """Return whether the type of `message` has such a field; an Event, for one, has only the first few."""
    return name in message.DESCRIPTOR.fields_by_name


def stamp(message: Message, etag: str) -> None:
    if has(message, "etag"):
        fields(message).etag = etag


def intent_of(message: M) -> M:
    """Return a copy without what other keys hold or what is made on reading."""
    intent = type(message)()
    intent.CopyFrom(message)
    for name in ("status", "etag"):
        if has(message, name):
            intent.ClearField(name)
    return intent


def status_of(message: M) -> M:
    """Return a message of the same type with `status` alone."""
    part = type(message)()
    if has(message, "status") and message.HasField("status"):
        fields(part).status.CopyFrom(fields(message).status)
    return part


def serialized(message: Message) -> bytes:
    """Return the same bytes for equal messages of one process, maps included."""
    return message.SerializeToString(deterministic=True)


def intent_bytes(message: Message) -> bytes:
    """Return what the key of the intent holds of `message`. A new record has nothing to leave out, and is not copied."""
    is_whole = not (has(message, "status") and message.HasField("status")) and not (has(message, "etag") and fields(message).etag)
    return serialized(message if is_whole else intent_of(message))


def status_bytes(message: Message) -> bytes:
    """Return what the key of the status holds of `message`; empty where it has none."""
    return serialized(status_of(message)) if has(message, "status") and message.HasField("status") else b""


def join(message_type: type[M], entry: Entry, etags: Etags) -> M:
    message = message_type.FromString(entry.intent + entry.status + entry.placement)
    stamp(message, etags.of(entry.intent_revision))
    return message


def index_values(message: M, indexes: Indexes[M]) -> tuple[tuple[str, str], ...]:
    # Values are uids, nearly all, and in other tables as well.
    return tuple(sorted({(index, sys.intern(value)) for index, values_of in indexes.items() for value in values_of(message) if value}))
