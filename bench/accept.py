"""How many servers a second one controller accepts in one project, and how many become ACTIVE, on fake hosts; a part of bench.rpc.

The controller that answers has a core to itself, as bench.rpc's other listeners have. The region's leader, the cell's and the hosts
stand for other machines: while creates are accepted they get what etcd and the client leave of the other core.
"""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.farm import farm

HOSTS = 100
SERVERS = 2_000
_LAST, _NONE = 19, 0


@dataclass(frozen=True)
class Rates:
    """Servers a second: as accepted, and until all of them were ACTIVE."""

    accepted: float
    active: float


async def rates() -> Rates:
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="kumo-farm-") as name:
        async with farm(Path(name), HOSTS, apart=True) as made:
            await made.add_hosts(made.fleet.config.hosts())
            await made.furnish()
            _run_on(made.controller, cores[-1:], _NONE)
            _run_on(made.store, cores[:1], _NONE)
            _run_on(os.getpid(), cores[:1], _NONE)
            for pid in made.others:
                _run_on(pid, cores[:1], _LAST)
            began = time.monotonic()
            await made.create_servers(0, SERVERS)
            accepted_s = time.monotonic() - began
            for pid in (*made.others, made.controller, made.store, os.getpid()):
                _run_on(pid, cores, _NONE)
            await made.until_active(SERVERS)
            active_s = time.monotonic() - began
    return Rates(SERVERS / accepted_s, SERVERS / active_s)


def _run_on(pid: int, cores: list[int], niceness: int) -> None:
    """Have all threads of a process run on these cores, at this niceness."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)
        os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
