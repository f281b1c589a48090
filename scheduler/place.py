"""Chooses the host for one server from the table, or says that there is none and why. Pure: it books nothing."""

import zlib
from dataclasses import dataclass

import numpy as np

from scheduler.explain import Explanation, explain
from scheduler.filters import FILTERS, Request
from scheduler.scores import emptiest
from scheduler.snapshot import Bools, Hosts

# Knuth's multiplicative constant: spreads neighbouring hashes over all of 32 bits.
_SPREAD = np.uint32(2654435761)


@dataclass(frozen=True)
class Choice:
    """The best host for a request, by uid and name, and what was passed over."""

    host_uid: str
    host: str
    fitting: int
    explanation: Explanation


@dataclass(frozen=True)
class NoRoom:
    """No host can take it at present."""

    explanation: Explanation


def fitting(hosts: Hosts, request: Request) -> Bools:
    """Return which hosts pass every filter."""
    kept = np.ones(len(hosts), np.bool_)
    for one in FILTERS:
        kept &= one.keeps(hosts, request)
    return kept


def place(hosts: Hosts, request: Request) -> Choice | NoRoom:
    """Return the best host; the order of rows makes no difference, equally good ones are spread by the server's uid."""
    kept = fitting(hosts, request)
    explanation = explain(hosts, request)
    if not kept.any():
        return NoRoom(explanation)
    scores = np.where(kept, emptiest(hosts, request), -np.inf)
    equals = np.flatnonzero(scores == scores.max())
    turns = (hosts.hashes[equals] ^ np.uint32(zlib.crc32(request.uid.encode()))) * _SPREAD
    first = equals[turns == turns.max()]
    at = min((int(row) for row in first), key=lambda row: hosts.uids[row])
    return Choice(hosts.uids[at], hosts.names[at], int(kept.sum()), explanation)
