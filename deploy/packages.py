"""Names the Debian packages Kumo needs, each with its reason, and installs the missing ones without starting their services.

Standard library only: it runs before anything else is there.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
SAVED = Path("/usr/sbin/policy-rc.d.before-kumo")
MARK = "# put here by Kumo while it installs packages; 101 means: start nothing"

RUN = {
    "python3-venv": "an environment of its own for Kumo's Python packages",
    "python3-libvirt": "libvirt's bindings, which must match its library",
    "python3-rados": "Ceph's bindings, which must match its library",
    "python3-rbd": "Ceph's bindings for block devices",
    "libseccomp2": "writes the filters of system calls that processes run under",
    "python3-nftables": "packet rules, handed to the kernel in one transaction",
    "libvirt-daemon": "libvirtd and virtlogd, which run guests and keep their consoles",
    "libvirt-daemon-driver-qemu": "libvirt's driver for QEMU",
    "libvirt-clients": "virsh, to look at guests by hand",
    "qemu-system-x86": "the emulator that guests run in",
    "qemu-utils": "qemu-img, which inspects and converts images",
    "qemu-block-extra": "QEMU's driver for disks on RBD",
    "ceph-mon": "the monitor of the one-node Ceph cluster",
    "ceph-mgr": "its manager, which counts space",
    "ceph-osd": "its object store",
    "ceph-common": "tools that make Ceph's keys",
    "e2fsprogs": "mke2fs, which makes the guest image's file system",
    "kmod": "modprobe, for the kernel module that shows bridged packets to packet rules",
    "iproute2": "ip, to try what the kernel can, and to look at links by hand",
    "nftables": "nft, to try what the kernel can, and to look at packet rules by hand",
}
DEVELOP = {
    "iputils-ping": "tests of tenants' networks",
    "iputils-arping": "tests that a guest cannot send with a false address",
    "binutils": "the assembler of the smallest guest",
    "procps": "tests that look at processes",
    "prometheus": "promtool, which judges the names of metrics",
}
FAKES = {"python3-venv": RUN["python3-venv"]}


def missing(packages: dict[str, str]) -> dict[str, str]:
    """Return those of `packages` that are not installed."""
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
        check=False,  # it fails when one is unknown, which is an answer
    ).stdout.splitlines()
    installed = {line.split()[0] for line in listed if line.endswith(" installed")}
    return {name: reason for name, reason in packages.items() if name not in installed}


@contextmanager
def services_kept_down() -> Iterator[None]:
    """While this lasts, installing a package starts none of its services. A policy that was there is put back."""
    if POLICY.exists() and MARK not in POLICY.read_text(errors="replace"):
        POLICY.rename(SAVED)
    POLICY.write_text(f"#!/bin/sh\n{MARK}\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        restore_policy()


def restore_policy() -> None:
    """Undo what `services_kept_down` did, also what an interrupted run left behind."""
    if SAVED.exists():
        SAVED.replace(POLICY)
    elif POLICY.exists() and MARK in POLICY.read_text(errors="replace"):
        POLICY.unlink()


def install(packages: dict[str, str]) -> list[str]:
    """Install what is missing and return its names. Raises OSError or subprocess.CalledProcessError."""
    restore_policy()
    wanted = missing(packages)
    if not wanted:
        return []
    width = max(map(len, wanted))
    print(f"Debian packages to install ({len(wanted)}), none of whose services will be started:")
    for name, reason in wanted.items():
        print(f"  {name:{width}}  {reason}")
    if os.geteuid():
        raise PermissionError(f"to install Debian packages, be root: sudo make setup, or sudo apt-get install {' '.join(wanted)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    subprocess.run(["apt-get", "-qq", "update"], check=True, env=environment, timeout=600)
    with services_kept_down():
        command = ["apt-get", "-qq", "-y", "-o", "Dpkg::Use-Pty=0", "install", "--no-install-recommends", *wanted]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=1800)
    return list(wanted)
