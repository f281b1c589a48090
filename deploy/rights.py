"""The one table of who may what on a host: user, groups, capabilities, new privileges, system calls, of every program that runs there.

Services are started by it, and a test compares it with what the kernel says of each process. What is not in it does not belong here.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Unpack, cast

from agent.privileges import Capability
from deploy.control import Service, Setting
from deploy.layout import User
from kumo.calls import host_service, plain_service

# By the kernel's numbers, from 0 on (capabilities(7)).
CAPABILITIES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "linux_immutable"),
    *("net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot"),
    *("sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease"),
    *("audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read"),
    *("perfmon", "bpf", "checkpoint_restore"),
)
NONE: frozenset[str] = frozenset()
_AGENT = frozenset(capability.name.lower() for capability in Capability)
# libvirtd gives guests' files to QEMU's user and becomes it, makes its /dev and its mounts, ties its threads to processors, reaches
# into its namespaces when something is plugged in, and has its taps: its hook moves them into the data plane.
_LIBVIRT = frozenset(
    {
        *("chown", "dac_override", "fowner", "kill", "mknod", "net_admin", "setgid", "setpcap", "setuid", "sys_admin", "sys_chroot"),
        *("sys_nice", "sys_ptrace", "sys_resource"),
    }
)
# What the responder gives up once its sockets are open in tenants' namespaces.
_OPENS_SOCKETS = frozenset({"dac_override", "net_admin", "net_raw", "setgid", "setpcap", "setuid", "sys_admin"})


@dataclass(frozen=True)
class Rights:
    """What the kernel says of each thread of a program that has come to rest.

    `capabilities` are those in force, `bounding` the most that anything it starts could have; ambient ones nobody has.
    """

    uid: int
    groups: frozenset[int] = frozenset()
    capabilities: frozenset[str] = NONE
    bounding: frozenset[str] = NONE
    no_new_privs: bool = True
    # How many filters of system calls lie upon each other.
    filters: int = 1


SUPERVISOR, QEMU, IMAGE_PROGRAM = "supervisor", "qemu", "image program"
RIGHTS: Mapping[str, Rights] = MappingProxyType(
    {
        # The host's init: it makes all others what they are.
        SUPERVISOR: Rights(
            User.ROOT, capabilities=frozenset(CAPABILITIES), bounding=frozenset(CAPABILITIES), no_new_privs=False, filters=0
        ),
        "etcd": Rights(User.ETCD),
        "ceph-mon": Rights(User.CEPH),
        "ceph-mgr": Rights(User.CEPH),
        "ceph-osd": Rights(User.CEPH),
        "virtlogd": Rights(User.ROOT),
        "libvirtd": Rights(User.ROOT, capabilities=_LIBVIRT, bounding=_LIBVIRT),
        # libvirt's filter, and its own: no programs, no new privileges, no limits raised.
        QEMU: Rights(User.QEMU, groups=frozenset({User.QEMU}), bounding=_LIBVIRT, filters=2),
        "kumo-agent": Rights(User.ROOT, capabilities=_AGENT, bounding=_AGENT),
        # The filter it was started with, and the short list it takes on before it reads a word of a guest.
        "kumo-guest-responder": Rights(User.GUEST, filters=2),
        # The same, and one against starting programs.
        **{name: Rights(User.CONTROLLER, filters=2) for name in ("kumo-controller", "kumo-controller-region", "kumo-controller-cell")},
        IMAGE_PROGRAM: Rights(User.IMAGE, filters=2),
    }
)


def service(name: str, argv: list[str], **setting: Unpack[Setting]) -> Service:
    """Return the service of that name with its rights. Raises KeyError for one that is not in the table."""
    rights = RIGHTS[name]
    uid, capabilities = rights.uid, rights.capabilities
    if name == "kumo-guest-responder":
        uid, capabilities = User.ROOT, _OPENS_SOCKETS
    calls = host_service() if uid == User.ROOT else plain_service()
    given = {"uid": uid, "capabilities": sorted(capabilities), "no_new_privs": rights.no_new_privs}
    given["seccomp"] = base64.b64encode(calls).decode()
    return cast(Service, {"name": name, "argv": argv, **given, **setting})
