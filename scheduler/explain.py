"""Says why hosts were turned down: how many by which filter, which came close, and what to ask differently.

A tenant is told nothing of hosts: only what would fit. Those who run the cloud are told which hosts lack what.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scheduler.filters import FILTERS, Filter, Request, failing, reaches_disks
from scheduler.snapshot import Hosts

_CLOSE_HOSTS = 3


@dataclass(frozen=True)
class Removal:
    """How many of the hosts that earlier filters had left a filter removed."""

    reason: str
    failing: str
    host_count: int


@dataclass(frozen=True)
class Explanation:
    """`binding` holds the sets of filters each of which, if all hosts passed it, would make room: the smallest such sets, sorted.

    `close` says of up to three hosts that fail only such a set what they lack. `largest_*` is the most of each that one host
    could still take of what it is asked for, over the hosts that are up, open, and reach its disk.
    """

    request: Request
    host_count: int
    removals: tuple[Removal, ...]
    binding: tuple[tuple[str, ...], ...]
    close: tuple[str, ...]
    largest_vcpus: int
    largest_memory_mib: int

    @property
    def reason(self) -> str:
        """One word for all: NO_ROOM when size is what fails, NO_HOST when none is there to have room."""
        sizes = {"NO_VCPUS", "NO_MEMORY"}
        return "NO_ROOM" if any(sizes.issuperset(one) for one in self.binding) else "NO_HOST"

    def for_tenant(self) -> str:
        asked = f"{self.request.vcpus} virtual CPUs and {self.request.memory_mib} MiB of memory"
        return f"there is no room for a server of {asked} at present; it waits and will be placed when there is"

    def fix(self) -> str:
        """What a tenant can do."""
        if self.largest_vcpus >= 1 and self.largest_memory_mib >= 1:
            most = f"{self.largest_vcpus} virtual CPUs and {self.largest_memory_mib} MiB"
            return f"wait, or ask for less: at most {most} would fit now"
        if self.reason == "NO_HOST":
            return "wait: no host takes new servers now; whoever runs this cloud sees why in its list of hosts"
        return "wait, or delete a server that is not needed"

    def for_operator(self) -> str:
        if not self.host_count:
            return "the cell has no hosts: create one"
        removed = ", ".join(f"{one.host_count} {one.failing} ({one.reason})" for one in self.removals if one.host_count)
        text = f"of {self.host_count} hosts {removed or 'none was removed'}"
        return f"{text}; closest: {'; '.join(self.close)}" if self.close else text


def explain(hosts: Hosts, request: Request) -> Explanation:
    """Return why each host that does not fit does not."""
    masks = [one.keeps(hosts, request) for one in FILTERS]
    left = np.ones(len(hosts), np.bool_)
    removals = []
    for one, mask in zip(FILTERS, masks, strict=True):
        removals.append(Removal(one.reason, one.failing, int((left & ~mask).sum())))
        left = left & mask
    failed = np.stack([~mask for mask in masks]) if len(hosts) else np.zeros((len(FILTERS), 0), np.bool_)
    fewest = int(failed.sum(0).min()) if len(hosts) else 0
    closest = [int(row) for row in np.flatnonzero(failed.sum(0) == fewest)] if fewest else []
    sets = {tuple(one.reason for one, fails in zip(FILTERS, failed[:, row], strict=True) if fails) for row in closest}
    ready = hosts.up & ~hosts.cordoned & hosts.runs_servers & reaches_disks(hosts, request)
    vcpus, memory_mib = _largest(hosts, np.flatnonzero(ready))
    return Explanation(request, len(hosts), tuple(removals), tuple(sorted(sets)), _close(hosts, request, closest), vcpus, memory_mib)


def _largest(hosts: Hosts, rows: "np.ndarray[tuple[int], np.dtype[np.intp]]") -> tuple[int, int]:
    """Return virtual CPUs and MiB of the host that has most memory free, so that asking for both at once fits."""
    if not len(rows):
        return 0, 0
    vcpus = (hosts.vcpus_limit - hosts.vcpus_claimed)[rows]
    memory_mib = (hosts.memory_limit_mib - hosts.memory_claimed_mib)[rows]
    usable = np.where(vcpus >= 1, memory_mib, -1)
    best = usable.max()
    if best < 1:
        return 0, 0
    return int(vcpus[usable == best].max()), int(best)


def _close(hosts: Hosts, request: Request, rows: Iterable[int]) -> tuple[str, ...]:
    nearest = heapq.nsmallest(_CLOSE_HOSTS, rows, key=lambda row: (_lack(hosts, request, row), hosts.names[row]))
    said = []
    for row in nearest:
        lacks = ", ".join(_said(one, hosts, request, row) for one in failing(hosts, request, row))
        said.append(f"{hosts.names[row]} ({lacks})")
    return tuple(said)


def _lack(hosts: Hosts, request: Request, row: int) -> float:
    """Return what share of the request the host lacks, to order hosts that came close."""
    vcpus = request.vcpus - int(hosts.vcpus_limit[row] - hosts.vcpus_claimed[row])
    memory_mib = request.memory_mib - int(hosts.memory_limit_mib[row] - hosts.memory_claimed_mib[row])
    return max(0, vcpus) / max(1, request.vcpus) + max(0, memory_mib) / max(1, request.memory_mib)


def _said(one: Filter, hosts: Hosts, request: Request, row: int) -> str:
    match one.reason:
        case "NO_VCPUS":
            free = int(hosts.vcpus_limit[row] - hosts.vcpus_claimed[row])
            return f"{free} of {request.vcpus} virtual CPUs free"
        case "NO_MEMORY":
            free = int(hosts.memory_limit_mib[row] - hosts.memory_claimed_mib[row])
            return f"{free} of {request.memory_mib} MiB free"
        case reason:
            return reason
