"""Gives up, for good, every capability that the agent does not list."""

import ctypes
import os
from enum import IntEnum

_PR_CAPBSET_DROP = 24
_CAP_VERSION_3 = 0x20080522
_EINVAL = 22


class Capability(IntEnum):
    """What the agent keeps, and why; numbers are the kernel's (capabilities(7))."""

    CHOWN = 0  # files of guests and of images belong to the users that read them
    DAC_OVERRIDE = 1  # takes away what the responder and the image child left, and reads the disks that are files
    FOWNER = 3  # modes of the folder for marks, which is the responder's
    SETGID = 6  # the image child becomes another user
    SETUID = 7
    SETPCAP = 8  # it gives up all that it has, and so does the agent itself
    NET_ADMIN = 12  # links, addresses and packet rules of the data plane
    NET_RAW = 13  # opens the socket that hears DHCP, for the responder
    SYS_ADMIN = 21  # network namespaces, and the image child's mounts


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def keep_only(kept: frozenset[int]) -> None:
    """Drop all capabilities but `kept` of the calling thread and of all it starts; call it before any thread is started.

    Raises OSError if the kernel refuses.
    """
    header = _Header(_CAP_VERSION_3, 0)
    held = (_Sets * 2)()
    _check(_libc.capget(ctypes.byref(header), held), "capget")
    permitted = held[0].permitted | held[1].permitted << 32
    if not permitted:
        return
    if permitted >> Capability.SETPCAP & 1:
        bound_to(kept)
    left = permitted & sum(1 << number for number in kept)
    for index in range(2):
        part = left >> 32 * index & 0xFFFFFFFF
        held[index].effective = held[index].permitted = part
        held[index].inheritable = 0
    _check(_libc.capset(ctypes.byref(header), held), "capset")


def bound_to(kept: frozenset[int]) -> None:
    """Have no program that is started from now on get any capability but `kept`. Needs SETPCAP; raises OSError without it."""
    for number in range(64):
        if number not in kept and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) and ctypes.get_errno() != _EINVAL:
            raise OSError(ctypes.get_errno(), f"dropping capability {number}: {os.strerror(ctypes.get_errno())}")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
