"""Gives up, for good, every capability that the agent does not list."""

import ctypes
from enum import IntEnum

_PR_CAPBSET_DROP = 24
_CAP_VERSION_3 = 0x20080522


class Capability(IntEnum):
    """What the agent keeps, and why; numbers are the kernel's (capabilities(7))."""

    CHOWN = 0  # files of guests and of images belong to the users that read them
    DAC_OVERRIDE = 1  # libvirt's and Ceph's files are not root's
    FOWNER = 3  # modes of files that others own
    KILL = 5  # ends the image child, which runs as another user
    SETGID = 6  # the image child becomes another user
    SETUID = 7
    SETPCAP = 8  # the image child gives up all that it has
    NET_BIND_SERVICE = 10  # listens for DHCP and metadata on behalf of the responder
    NET_ADMIN = 12  # links, addresses and packet rules of the data plane
    NET_RAW = 13  # hears DHCP before a guest has an address
    SYS_CHROOT = 18  # the image child sees nothing of the host
    SYS_PTRACE = 19  # looks at processes of other users: whether a guest's has ended
    SYS_ADMIN = 21  # network namespaces and mounts
    SYS_RESOURCE = 24  # limits of the image child


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def keep_only(kept: frozenset[int]) -> None:
    """Drop all capabilities but `kept` of the calling thread and of all it starts; call it before any thread is started.

    Raises OSError if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(_CAP_VERSION_3, 0)
    held = (_Sets * 2)()
    _check(libc.capget(ctypes.byref(header), held), "capget")
    permitted = held[0].permitted | held[1].permitted << 32
    if not permitted:
        return
    if permitted >> Capability.SETPCAP & 1:
        for number in range(64):
            if number not in kept and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0 and ctypes.get_errno() != 22:
                raise OSError(ctypes.get_errno(), f"dropping capability {number}")
    left = permitted & sum(1 << number for number in kept)
    for index in range(2):
        part = left >> 32 * index & 0xFFFFFFFF
        held[index].effective = held[index].permitted = part
        held[index].inheritable = 0
    _check(libc.capset(ctypes.byref(header), held), "capset")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what} failed")
