"""Finds what would make a start fail, before anything is made: each problem with the sentence that says how to fix it."""

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.layout import CHECKOUT, DEFAULT_PORT_BASE, PORT_COUNT, Lab, Port

DISK_BYTES = 4 << 30
MEMORY_BYTES = 2 << 30
LONGEST_STATE = 60  # socket paths below it must stay within 107 characters
TRIED_PORTS = (*(port for port in Port if port not in (Port.CEPH_FIRST, Port.CEPH_LAST)),)


@dataclass(frozen=True)
class Problem:
    """One reason not to start."""

    what: str
    because: str
    fix: str


def _paths(lab: Lab) -> Iterator[Problem]:
    moves = {"state directory": (lab.state, "KUMO_STATE=/var/lib/kumo make up"), "checkout": (CHECKOUT, "move it")}
    for name, (path, move) in moves.items():
        if any(character.isspace() or character in "\"',:%$" for character in str(path)):
            yield Problem(
                f"the path of the {name} cannot be used",
                f"{str(path)!r} has a space or a character that Ceph and libvirt split paths at",
                f"use a path of letters, digits, '-', '_', '.' and '/': {move}",
            )
    if len(str(lab.state)) > LONGEST_STATE:
        because = f"{lab.state} has {len(str(lab.state))} characters; sockets below it would pass the kernel's limit"
        yield Problem("the path of the state directory is too long", because, f"use at most {LONGEST_STATE} characters")
    for parent in lab.state.parents:
        if parent.exists() and not parent.stat().st_mode & 0o001:
            because = f"{parent} can be entered by its owner alone, and etcd, Ceph, QEMU and the controller run as users of their own"
            yield Problem("the state directory cannot lie there", because, "KUMO_STATE=/var/lib/kumo make up")
    for hidden in ("/run", "/var/run", "/proc", "/sys", "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt"):
        if lab.state.is_relative_to(hidden):
            yield Problem(
                "the state directory cannot lie there", f"{hidden} is replaced inside the lab", "KUMO_STATE=/var/lib/kumo make up"
            )


def _disk(lab: Lab) -> Iterator[Problem]:
    existing = next(path for path in (lab.state, *lab.state.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < DISK_BYTES:
        because = f"{existing} has {free >> 20} MiB free and a region with one small server needs {DISK_BYTES >> 20} MiB"
        yield Problem("too little disk", because, "free some, or set KUMO_STATE to a directory on a larger disk")
    if os.statvfs(existing).f_flag & os.ST_NOEXEC:
        yield Problem(
            "the state directory cannot be used", f"{existing} is mounted noexec", "set KUMO_STATE to a directory on another disk"
        )


def _memory() -> Iterator[Problem]:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) << 10
            if available < MEMORY_BYTES:
                because = f"{available >> 20} MiB are available, and etcd, Ceph, libvirt and one small server need {MEMORY_BYTES >> 20} MiB"
                yield Problem("too little memory", because, "end other programs, or use a larger machine")


def _ipv6() -> Iterator[Problem]:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        fix = "sysctl -w net.ipv6.conf.lo.disable_ipv6=0 (and without ipv6.disable=1 on the kernel's command line)"
        yield Problem("no IPv6 on the loopback device", f"::1 cannot be used: {error.strerror}", fix)


def _holder(port: int) -> str:
    """Return who listens on `port`, as far as /proc tells."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if any(os.readlink(file) in inodes for file in (process / "fd").iterdir()):
                    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
            except OSError:
                continue
    return "another program"


def _ports(lab: Lab) -> Iterator[Problem]:
    if not 1024 <= lab.port_base <= 65535 - PORT_COUNT:
        fix = f"choose one between 1024 and {65535 - PORT_COUNT}: KUMO_PORT_BASE=7400 make up"
        yield Problem("the port base cannot be used", f"{lab.port_base} leaves no room for {PORT_COUNT} ports", fix)
        return
    busy: dict[int, str] = {}
    for port in TRIED_PORTS:
        number = lab.port(port)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    yield Problem(f"port {number} cannot be used", f"127.0.0.1: {error.strerror}", "bring the loopback device up")
                    return
                busy[number] = _holder(number)
    if busy:
        numbers, holders = ", ".join(map(str, busy)), ", ".join(dict.fromkeys(busy.values()))
        what = f"port {numbers} is busy" if len(busy) == 1 else f"ports {numbers} are busy"
        because = f"{holders} has it" if len(busy) == 1 else f"{holders} have them"
        free = lab.port_base + 1000 if lab.port_base + 1000 + PORT_COUNT <= 65535 else DEFAULT_PORT_BASE
        yield Problem(what, because, f"end that program, or KUMO_PORT_BASE={free} make up")


def _kernel() -> Iterator[Problem]:
    """Try, in namespaces that end with the attempt, what the data plane needs: nothing of the machine is touched."""
    tried = {
        "network namespaces": "true",
        "VXLAN devices": "ip link add kumo-try type vxlan id 1 dstport 0",
        "bridges": "ip link add kumo-try type bridge",
        "TAP devices": "ip tuntap add kumo-try mode tap",
        "packet rules (nftables)": "nft add table bridge kumo-try",
    }
    for feature, command in tried.items():
        argv = ["unshare", "--net", "--mount", "sh", "-c", command]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()
            fix = "use Debian's own kernel, and in a container give it the capabilities SYS_ADMIN and NET_ADMIN and /dev/net/tun"
            yield Problem(f"this kernel gives no {feature}", reason[-1] if reason else "refused without a word", fix)
            return


def problems(lab: Lab) -> list[Problem]:
    """Return everything that stands in the way of starting `lab`; nothing is changed."""
    if os.geteuid():
        return [Problem("a region is started by root", f"this is user {os.geteuid()}", "sudo make up")]
    return [*_paths(lab), *_disk(lab), *_memory(), *_ipv6(), *_ports(lab), *_kernel()]


def problems_of_lab(lab: Lab) -> list[Problem]:
    """The same for a lab of several hosts, which has ports of its own in networks of its own."""
    if os.geteuid():
        return [Problem("a lab is started by root", f"this is user {os.geteuid()}", "sudo make lab")]
    return [*_paths(lab), *_disk(lab), *_memory(), *_kernel()]
