"""The resident table of a cell's hosts, as numpy columns that filters and scores read. It decides nothing and reads no store.

Columns, not rows: one decision over ten thousand hosts is a handful of vector operations.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kumo.api.cell.v1.record_pb2 import Booking
from kumo.api.fleet.v1 import host_pb2 as fleet

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint32]


@dataclass(frozen=True)
class Host:
    """One row. Limits are what may be claimed in all: what the host offers, times the ratio, less the reserve."""

    uid: str
    name: str
    up: bool = True
    cordoned: bool = False
    runs_servers: bool = True
    vcpus_limit: int = 0
    memory_limit_mib: int = 0
    vcpus_claimed: int = 0
    memory_claimed_mib: int = 0


@dataclass(frozen=True)
class Hosts:
    """Equally long columns; row i of each belongs to one host. The order of rows means nothing. Not to be changed."""

    uids: list[str]
    names: list[str]
    hashes: Hashes
    up: Bools
    cordoned: Bools
    runs_servers: Bools
    vcpus_limit: Ints
    memory_limit_mib: Ints
    vcpus_claimed: Ints
    memory_claimed_mib: Ints

    def __len__(self) -> int:
        return len(self.uids)

    @classmethod
    def of(cls, rows: Iterable[Host]) -> "Hosts":
        """Return the columns of `rows`."""
        table = HostTable()
        for row in rows:
            table.put(row)
        return table.hosts


# In the order of the fields of Host and of Hosts.
_FLAGS = ("up", "cordoned", "runs_servers")
_NUMBERS = ("vcpus_limit", "memory_limit_mib", "vcpus_claimed", "memory_claimed_mib")


class HostTable:
    """The rows by uid, changed in place. A row that goes leaves its place to the last one."""

    def __init__(self, room: int = 16) -> None:
        self._uids: list[str] = []
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._hashes: Hashes = np.zeros(room, np.uint32)
        self._flags: dict[str, Bools] = {column: np.zeros(room, np.bool_) for column in _FLAGS}
        self._numbers: dict[str, Ints] = {column: np.zeros(room, np.int64) for column in _NUMBERS}

    @property
    def hosts(self) -> Hosts:
        """The columns as they are; they change under the reader at the next put()."""
        count = len(self._uids)
        up, cordoned, runs_servers = (self._flags[column][:count] for column in _FLAGS)
        numbers = (self._numbers[column][:count] for column in _NUMBERS)
        return Hosts(self._uids, self._names, self._hashes[:count], up, cordoned, runs_servers, *numbers)

    def put(self, row: Host) -> None:
        """Add or replace the row of one host."""
        at = self._index.get(row.uid)
        if at is None:
            at = self._append(row)
        self._names[at] = row.name
        for column, flags in self._flags.items():
            flags[at] = getattr(row, column)
        for column, numbers in self._numbers.items():
            numbers[at] = getattr(row, column)

    def remove(self, uid: str) -> None:
        at = self._index.pop(uid, None)
        if at is None:
            return
        last = len(self._uids) - 1
        if at != last:
            self._uids[at], self._names[at] = self._uids[last], self._names[last]
            self._index[self._uids[at]] = at
            for values in (self._hashes, *self._flags.values(), *self._numbers.values()):
                values[at] = values[last]
        self._uids.pop()
        self._names.pop()

    def claim(self, uid: str, vcpus: int, memory_mib: int) -> None:
        """Count a claim on a host that is in the table."""
        at = self._index[uid]
        self._numbers["vcpus_claimed"][at] += vcpus
        self._numbers["memory_claimed_mib"][at] += memory_mib

    def rows(self) -> Iterator[Host]:
        for uid in self._uids:
            row = self.get(uid)
            if row is not None:
                yield row

    def get(self, uid: str) -> Host | None:
        at = self._index.get(uid)
        if at is None:
            return None
        up, cordoned, runs_servers = (bool(self._flags[column][at]) for column in _FLAGS)
        numbers = (int(self._numbers[column][at]) for column in _NUMBERS)
        return Host(uid, self._names[at], up, cordoned, runs_servers, *numbers)

    def _append(self, row: Host) -> int:
        at = len(self._uids)
        if at == len(self._hashes):
            self._grow(2 * at)
        self._uids.append(row.uid)
        self._names.append(row.name)
        self._index[row.uid] = at
        self._hashes[at] = zlib.crc32(row.uid.encode())
        return at

    def _grow(self, room: int) -> None:
        self._hashes = np.resize(self._hashes, room)
        self._flags = {column: np.resize(values, room) for column, values in self._flags.items()}
        self._numbers = {column: np.resize(values, room) for column, values in self._numbers.items()}


@dataclass(frozen=True)
class Policy:
    """How full hosts may be made: claims for each virtual CPU and MiB that a host offers, and MiB that no server gets."""

    vcpu_ratio: float = 16.0
    memory_ratio: float = 1.0
    memory_reserve_mib: int = 256


def row_of(host: fleet.Host, booking: Booking | None, policy: Policy) -> Host:
    """Return the row of a host as its record and its booking say. A host that was never heard has no room."""
    status = host.status
    return Host(
        uid=host.uid,
        name=host.name.removeprefix("hosts/"),
        up=status.state == fleet.Host.UP,
        cordoned=host.spec.cordoned or host.HasField("delete_time"),
        runs_servers=bool(status.virt_type),
        vcpus_limit=int(status.vcpus * policy.vcpu_ratio),
        memory_limit_mib=int(max(0, status.memory_mib - policy.memory_reserve_mib) * policy.memory_ratio),
        vcpus_claimed=booking.vcpus if booking is not None else 0,
        memory_claimed_mib=booking.memory_mib if booking is not None else 0,
    )
