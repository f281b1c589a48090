"""What agents said last of the things of one kind: as bytes, a fifth of what messages take, and so that it is found who saw a thing."""

import sys
from collections import defaultdict
from collections.abc import Iterator, MutableMapping
from typing import Any

from kumo.store.record import M


class Whereabouts:
    """Which sightings, of all hosts, have something of which thing."""

    def __init__(self) -> None:
        self._by_uid: dict[str, tuple[Sightings[Any], ...]] = defaultdict(tuple)

    def hosts(self, uid: str) -> frozenset[str]:
        return frozenset(sightings.host_uid for sightings in self._by_uid.get(uid, ()))

    def add(self, uid: str, sightings: "Sightings[Any]") -> None:
        self._by_uid[uid] += (sightings,)

    def discard(self, uid: str, sightings: "Sightings[Any]") -> None:
        left = tuple(other for other in self._by_uid.pop(uid, ()) if other is not sightings)
        if left:
            self._by_uid[uid] = left


class Sightings(MutableMapping[str, M]):
    """What one host's agent said, by uid. What is read is the reader's own: only putting it back changes what is kept."""

    def __init__(self, message_type: type[M], host_uid: str, where: Whereabouts) -> None:
        self.host_uid = host_uid
        self._type, self._where = message_type, where
        self._said: dict[str, bytes] = {}

    def __getitem__(self, uid: str) -> M:
        return self._type.FromString(self._said[uid])

    def __setitem__(self, uid: str, said: M) -> None:
        if uid not in self._said:
            uid = sys.intern(uid)  # the ledger has it as well
            self._where.add(uid, self)
        self._said[uid] = said.SerializeToString()

    def __delitem__(self, uid: str) -> None:
        del self._said[uid]
        self._where.discard(uid, self)

    def __contains__(self, uid: object) -> bool:
        return uid in self._said

    def __iter__(self) -> Iterator[str]:
        return iter(self._said)

    def __len__(self) -> int:
        return len(self._said)
