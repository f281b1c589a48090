"""A libvirtd and virtlogd of the run's own, in namespaces that end with it, and disks for guests of 512 bytes."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

_SUPERVISOR = Path(__file__).parent.parent / "deploy" / "supervisor.py"
_STUB = Path(__file__).parent / "agent" / "compute" / "stub.bin"
_DISK_BYTES = 1 << 20
# How much virtlogd keeps of a console in a file, and in how many.
CONSOLE_BYTES, CONSOLE_PARTS = 65536, 3
_MOUNTS = {
    "run": "/run/libvirt",
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}


@dataclass(frozen=True)
class LibvirtHost:
    """The host: `proc` is its /proc as seen from here, in which its own pids count."""

    directory: Path
    init_pid: int

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.directory}/run/libvirt-sock"

    @property
    def run_directory(self) -> Path:
        return self.directory / "run"

    @property
    def log_directory(self) -> Path:
        return self.directory / "log"

    @property
    def consoles(self) -> Path:
        return self.directory / "consoles"

    @property
    def proc(self) -> Path:
        return Path(f"/proc/{self.init_pid}/root/proc")

    def stub_disk(self, name: str) -> Path:
        """Return a new disk that boots into the ticking stub."""
        path = self.directory / "disks" / f"{name}.raw"
        shutil.copyfile(_STUB, path)
        os.truncate(path, _DISK_BYTES)
        return path

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process by the pid that it has in the host."""
        subprocess.run(["nsenter", f"--target={self.init_pid}", "--pid", "--mount", "kill", f"-{number.value}", str(pid)], check=True)

    def kill_libvirtd(self) -> None:
        """End libvirtd as a crash does; it is started again at once."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.directory / "supervisor.sock"))
            connection.sendall(json.dumps({"do": "signal", "name": "libvirtd", "signal": signal.SIGKILL}).encode() + b"\n")
            connection.recv(4096)


def _prepare(directory: Path) -> Path:
    for name in (*_MOUNTS, "etc/qemu", "consoles", "disks", "out"):
        (directory / name).mkdir()
    etc = directory / "etc"
    (etc / "libvirtd.conf").write_text('auth_unix_rw = "none"\nunix_sock_rw_perms = "0700"\nlog_outputs = "3:stderr"\n')
    (etc / "qemu.conf").write_text('user = "root"\ngroup = "root"\nsecurity_driver = "none"\nremember_owner = 0\n')
    (etc / "virtlogd.conf").write_text(f'log_outputs = "3:stderr"\nmax_size = {CONSOLE_BYTES}\nmax_backups = {CONSOLE_PARTS - 1}\n')
    (etc / "libvirt.conf").touch()
    services = directory / "services.json"
    programs = [{"name": "virtlogd", "argv": ["virtlogd"], "uid": 0}, {"name": "libvirtd", "argv": ["libvirtd"], "uid": 0}]
    content = {"socket": str(directory / "supervisor.sock"), "log_dir": str(directory / "out"), "services": programs}
    services.write_text(json.dumps(content))
    return services


def _start(directory: Path, services: Path, *, own_network: bool) -> "subprocess.Popen[bytes]":
    mounts = "".join(f"mkdir -p {target}; mount --bind {directory}/{name} {target}; " for name, target in _MOUNTS.items())
    # With a /sys of its own there are no cgroups: libvirt would put the guests beside those of other libvirtds of the machine.
    script = (
        "set -e; mount -t tmpfs run /run; mkdir /run/lock; umount -l /sys; mount -t sysfs sysfs /sys; "
        f"{mounts} exec /usr/bin/python3 -I -S {_SUPERVISOR} {services}"
    )
    network = ["--net"] if own_network else []
    unshare = ["unshare", "--mount", "--pid", *network, "--uts", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
    with (directory / "out" / "init.log").open("wb") as log:
        command = ["setpriv", "--pdeathsig", "KILL", *unshare, "bash", "-c", script]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def _until(what: str, is_so: Any, deadline_s: float = 60.0) -> Any:
    end = time.monotonic() + deadline_s
    while not (found := is_so()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.02)
    return found


def _answers(uri: str) -> bool:
    try:
        libvirt.open(uri).close()
    except libvirt.libvirtError:
        return False
    return True


@contextlib.contextmanager
def running_libvirt(*, own_network: bool = True) -> Iterator[LibvirtHost]:
    """Start a host and end it, with all its guests. Without a network of its own it reaches a Ceph of the run; give its guests none."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    directory = Path(tempfile.mkdtemp(prefix="kumo-libvirt-", dir="/tmp"))
    outer = None
    try:
        outer = _start(directory, _prepare(directory), own_network=own_network)
        init_pid = _until("the host's init", lambda pid=outer.pid: _child_of(pid))
        host = LibvirtHost(directory, init_pid)
        _until("libvirtd", lambda: _answers(host.uri))
        yield host
    finally:
        if outer is not None:
            outer.kill()
            outer.wait()
        shutil.rmtree(directory, ignore_errors=True)
