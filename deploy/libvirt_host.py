"""The lab's own libvirtd and virtlogd: their configuration, services and health. Defines no guests.

Each lab has directories of its own, mounted over libvirt's inside the lab's mount namespace (deploy/namespace.py). No
network, no storage pool, no TCP listener: guests' disks come from RBD and their links from the agent.
"""

import uuid
from pathlib import Path

import libvirt

from deploy.control import Service
from deploy.files import make_directory, write
from deploy.layout import Lab, User
from deploy.program import site_packages
from deploy.rights import service

# libvirt runs this before QEMU starts; the agent's code behind it moves the guest's taps into the data plane.
HOOK = Path("agent/network/hook.py")


def prepare(lab: Lab) -> None:
    for name in ("", "etc", "etc/qemu", "etc/hooks", "etc/secrets", "lib", "log", "log/consoles", "cache", "run"):
        make_directory(lab.libvirt / name)
    etc = lab.libvirt / "etc"
    identity = lab.libvirt / "host-uuid"
    if not identity.exists():
        write(identity, str(uuid.uuid4()))
    write(
        etc / "libvirtd.conf",
        f'host_uuid = "{identity.read_text()}"\n'
        'unix_sock_ro_perms = "0700"\nunix_sock_rw_perms = "0700"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n'
        'log_outputs = "3:stderr"\nlisten_tls = 0\nlisten_tcp = 0\n',
    )
    write(
        etc / "qemu.conf",
        f'user = "+{User.QEMU:d}"\ngroup = "+{User.QEMU:d}"\n'
        'security_driver = "none"\nremember_owner = 0\nmax_core = 0\ndump_guest_core = 0\nseccomp_sandbox = 1\n',
    )
    write(etc / "virtlogd.conf", 'log_outputs = "3:stderr"\nmax_size = 1048576\nmax_backups = 2\n')
    write(etc / "libvirt.conf", "")
    # libvirt waits for it at each phase of each start: only one of them is worth starting Python.
    program = f'/usr/bin/python3 -I -S {site_packages(lab.venv)}/{HOOK} --state {lab.agent}/network "$@"'
    write(etc / "hooks" / "qemu", f'#!/bin/sh\n[ "$2" = start ] || exit 0\nexec {program}\n', mode=0o755)


def services(lab: Lab) -> list[Service]:
    """virtlogd keeps guests' console logs, so it comes first and ends last."""
    return [
        service("virtlogd", ["virtlogd"], umask=0o022),
        service("libvirtd", ["libvirtd"], umask=0o022, nofile=8192),
    ]


def is_healthy(lab: Lab) -> bool:
    try:
        connection = libvirt.open(lab.libvirt_uri)
    except libvirt.libvirtError:
        return False
    try:
        connection.getVersion()
    except libvirt.libvirtError:
        return False
    finally:
        connection.close()
    return True


def quiet() -> None:
    """libvirt prints each error to stderr unless told not to; here they are expected while it starts."""
    libvirt.registerErrorHandler(lambda *_: None, None)
