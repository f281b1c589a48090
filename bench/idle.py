"""What Kumo's own processes cost while nothing happens: the controller, the agent and their helpers, with one server running.

Memory is the proportional set size, in which shared pages are shared out; processor time is that of 60 s.

usage: python -m bench.idle [--json]
"""

import os
import time
from pathlib import Path

from bench.lab import enter_sandbox, region
from bench.results import Row, hand_in
from deploy import control
from deploy.trial import Trial

# What Kumo stands on is not counted: etcd, Ceph, libvirt and the guests.
OTHERS = ("etcd", "ceph-", "libvirtd", "virtlogd", "qemu-system")
SETTLE_S = 10.0
WINDOW_S = 60.0


def own_processes(lab: Trial) -> dict[int, str]:
    """Return pid → name of every process of the lab that is Kumo's."""
    found = {}
    for pid in control.processes(lab.lab).values():
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        if not name.startswith(OTHERS):
            found[pid] = name
    return found


def pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def cpu_s(pid: int) -> float:
    """User and system time of a process, and of the children it has waited for. Source: proc(5), fields 14 to 17 of stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    enter_sandbox("bench.idle")
    with region() as lab:
        time.sleep(SETTLE_S)
        pids = own_processes(lab)
        before = {pid: cpu_s(pid) for pid in pids}
        started = time.monotonic()
        time.sleep(WINDOW_S)
        used = sum(cpu_s(pid) - before[pid] for pid in pids)
        percent = 100 * used / (time.monotonic() - started)
        memory = {pid: pss_mib(pid) for pid in pids}
    hand_in(
        [Row("idle.pss_mib", round(sum(memory.values()), 1), "MiB", len(pids)), Row("idle.cpu_percent", round(percent, 2), "%", len(pids))]
    )


if __name__ == "__main__":
    main()
