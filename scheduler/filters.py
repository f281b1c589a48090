"""What a host must be to take a server: one function a condition, each over the whole table at once. The commit asks the same ones."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scheduler.snapshot import Bools, Hosts


@dataclass(frozen=True)
class Request:
    """What a server needs. `uid` is its own, and spreads equal choices over equal hosts."""

    uid: str
    vcpus: int
    memory_mib: int
    # The names of the hosts that reach its disks; empty for all.
    reach: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Filter:
    """A condition: the word for hosts that fail it, what those lack in a sentence, and the test itself."""

    reason: str
    failing: str
    keeps: Callable[[Hosts, Request], Bools]


def is_up(hosts: Hosts, _request: Request) -> Bools:
    return hosts.up


def takes_new_servers(hosts: Hosts, _request: Request) -> Bools:
    return ~hosts.cordoned


def runs_servers(hosts: Hosts, _request: Request) -> Bools:
    return hosts.runs_servers


def reaches_disks(hosts: Hosts, request: Request) -> Bools:
    if not request.reach:
        return np.ones(len(hosts), np.bool_)
    return np.fromiter((name in request.reach for name in hosts.names), np.bool_, len(hosts))


def has_vcpus(hosts: Hosts, request: Request) -> Bools:
    return hosts.vcpus_limit - hosts.vcpus_claimed >= request.vcpus


def has_memory(hosts: Hosts, request: Request) -> Bools:
    return hosts.memory_limit_mib - hosts.memory_claimed_mib >= request.memory_mib


FILTERS: tuple[Filter, ...] = (
    Filter("HOST_DOWN", "do not answer", is_up),
    Filter("HOST_CORDONED", "are cordoned", takes_new_servers),
    Filter("NO_VIRTUALIZATION", "run no servers", runs_servers),
    Filter("POOL_OUT_OF_REACH", "do not reach the pool of its disk", reaches_disks),
    Filter("NO_VCPUS", "have too few virtual CPUs free", has_vcpus),
    Filter("NO_MEMORY", "have too little memory free", has_memory),
)


def failing(hosts: Hosts, request: Request, at: int) -> tuple[Filter, ...]:
    """Return the filters that the host in row `at` does not pass."""
    return tuple(one for one in FILTERS if not one.keeps(hosts, request)[at])
