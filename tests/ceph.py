"""One real Ceph for the tests of a run, brought up by the same code as `make up`: on ports that are free, in a folder that goes."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import ceph
from deploy.layout import PORT_COUNT, Lab, Port


@dataclass(frozen=True)
class Ceph:
    """A running cluster. `client.admin` is for tests to look and to do harm with; what is tested uses the agent's key."""

    lab: Lab
    pids: dict[str, int]

    @property
    def conf_file(self) -> Path:
        return self.lab.agent / "ceph" / "ceph.conf"

    @property
    def user(self) -> str:
        return f"client.agent-{self.lab.host}"

    def admin(self) -> contextlib.AbstractContextManager[Any]:
        return ceph.admin(self.lab)

    def signal(self, service: str, number: signal.Signals) -> None:
        os.kill(self.pids[service], number)


def _free_base() -> int:
    """Return a port base of which everything that Ceph will use can be bound at this moment, below those the kernel hands out."""
    wanted = (Port.MON_V2, Port.MON_V1, *range(Port.CEPH_FIRST, Port.CEPH_LAST + 1))
    first = 10000 + os.getpid() * PORT_COUNT % 20000
    for base in (*range(first, 32000, PORT_COUNT), *range(10000, first, PORT_COUNT)):
        if all(_is_free(base + int(offset)) for offset in wanted):
            return int(base)
    raise RuntimeError("no free ports for Ceph")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _start(service: Any, log: Path) -> subprocess.Popen[bytes]:
    uid = service["uid"]
    # The parent's end is the child's: a run that is killed leaves no daemon.
    argv = ["setpriv", "--pdeathsig=KILL", f"--reuid={uid:d}", f"--regid={uid:d}", "--clear-groups", "--", *service["argv"]]
    with open(log / f"{service['name']}.log", "ab") as file:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/")


@contextmanager
def running_ceph() -> Iterator[Ceph]:
    """Bring up a cluster, with its pools and keys, and take it down again."""
    # Not pytest's own folder: Ceph's user must get into it, and its admin sockets have names of at most 107 bytes.
    state = Path(tempfile.mkdtemp(prefix="kumo-ceph-", dir="/tmp"))
    state.chmod(0o755)
    lab = Lab(state, _free_base())
    for directory in (lab.log, lab.agent, lab.controller):
        directory.mkdir()
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        ceph.prepare(lab)
        for service in ceph.services(lab):
            started[service["name"]] = _start(service, lab.log)
        with ceph.admin(lab) as cluster:
            before = ceph.epoch(cluster)
            ceph.make_osd(lab, cluster)
            (osd,) = (one for one in ceph.services(lab) if one["name"] == "ceph-osd")
            started["ceph-osd"] = _start(osd, lab.log)
            ceph.wait_for_osd(cluster, before)
            ceph.make_pools(cluster)
            ceph.hand_out_keys(lab, cluster, lab)
        yield Ceph(lab, {name: process.pid for name, process in started.items()})
    finally:
        for process in started.values():
            process.kill()
        for process in started.values():
            process.wait()
        shutil.rmtree(state)
