"""How good a host is for a server, among those that can take it: one function a preference, over the whole table at once."""

import numpy as np
from numpy.typing import NDArray

from scheduler.filters import Request
from scheduler.snapshot import Hosts

Scores = NDArray[np.float64]


def emptiest(hosts: Hosts, request: Request) -> Scores:
    """Prefer the host that has most left, of what it will then be shortest of: 1 is empty, 0 is full. Spreads servers."""
    vcpus_left = hosts.vcpus_limit - hosts.vcpus_claimed - request.vcpus
    memory_left = hosts.memory_limit_mib - hosts.memory_claimed_mib - request.memory_mib
    vcpus_share = vcpus_left / np.maximum(hosts.vcpus_limit, 1)
    memory_share = memory_left / np.maximum(hosts.memory_limit_mib, 1)
    return np.minimum(vcpus_share, memory_share)
