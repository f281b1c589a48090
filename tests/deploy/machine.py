"""What a machine looks like from outside, as data to compare: processes, links, namespaces, packet rules, mounts, files."""

import os
import subprocess
from pathlib import Path

# Where a host's services keep things. Everything else that a lab may touch lies in its state directory.
WATCHED = (
    "/etc/libvirt",
    "/var/lib/libvirt",
    "/var/log/libvirt",
    "/var/cache/libvirt",
    "/etc/ceph",
    "/var/lib/ceph",
    "/var/log/ceph",
    "/run",
    "/dev/shm",
)
ACCOUNTS = ("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf")


def _output(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def _processes() -> set[str]:
    found = set()
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and int(directory.name) != os.getpid():
            try:
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (directory / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state != "Z":
                found.add(f"{directory.name} {command}")
    return found


def _namespaces() -> set[str]:
    found = set()
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            for kind in ("net", "mnt", "pid", "uts"):
                try:
                    found.add(os.readlink(directory / "ns" / kind))
                except OSError:
                    continue
    return found


def _files() -> set[str]:
    found = set()
    for root in WATCHED:
        for path in [Path(root), *Path(root).rglob("*")]:
            if path.exists():
                found.add(f"{path} {path.lstat().st_mode:o} {path.lstat().st_uid}")
    return found


def snapshot() -> dict[str, object]:
    """Return the machine's state by subject; equal before and after means that nothing was left and nothing taken."""
    return {
        "processes": _processes(),
        "namespaces": _namespaces(),
        "links": _output("ip", "-o", "link", "show"),
        "addresses": _output("ip", "-o", "address", "show"),
        "routes": _output("ip", "route", "show", "table", "all"),
        "rules": _output("nft", "list", "ruleset"),
        "named namespaces": _output("ip", "netns", "list"),
        "mounts": [line.split(" ", 4)[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()],
        "files": _files(),
        "accounts": [Path(path).read_bytes() for path in ACCOUNTS if Path(path).exists()],
        "cgroups": sorted(str(path) for path in Path("/sys/fs/cgroup").rglob("*") if path.is_dir()),
        "hostname": os.uname().nodename,
    }
