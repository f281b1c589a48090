"""Makes, enters and removes network namespaces that are pinned by a bind mount. What is in them is others'.

setns(2) is per thread: whoever visits a namespace opens sockets there and comes home; a socket belongs to its namespace for ever
and may be used from any thread. Standard library only, and little of it: libvirt's hook uses this before each start of a guest.
"""

import ctypes
import os

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_NSFS_MAGIC = 0x6E736673
_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class _StatFs(ctypes.Structure):
    # struct statfs is 120 bytes on 64-bit Linux; only its first field is read.
    _fields_ = (("type", ctypes.c_long), ("rest", ctypes.c_char * 248))


def is_pinned(path: str) -> bool:
    """Return whether a namespace is mounted at `path`; a plain file there is what a crash left between touch and mount."""
    found = _StatFs()
    return bool(_libc.statfs(path.encode(), ctypes.byref(found)) == 0 and found.type == _NSFS_MAGIC)


def create(path: str) -> bool:
    """Make a namespace pinned at `path`, or find it there; return whether it is new. Starts a thread that ends again."""
    from threading import Thread  # the hook makes none

    if is_pinned(path):
        return False
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    failed: list[OSError] = []

    def make() -> None:
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            _check(_libc.mount(_OWN.encode(), path.encode(), b"none", ctypes.c_ulong(_MS_BIND), None), f"pin {path}")
        except OSError as error:
            failed.append(error)

    thread = Thread(target=make, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return True


def remove(path: str) -> None:
    """Take the pin away; the namespace goes when its last socket does. It may be gone already."""
    while is_pinned(path):
        _check(_libc.umount2(path.encode(), _MNT_DETACH), f"unpin {path}")
    if os.path.exists(path):
        os.unlink(path)


class visit:  # noqa: N801  # it is used as `with visit(path):`
    """Be in the namespace at `path` inside the block: this thread only, so nothing may await in it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._home = -1

    def __enter__(self) -> None:
        there = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
            _check(_libc.setns(there, _CLONE_NEWNET), f"enter {self._path}")
        finally:
            os.close(there)

    def __exit__(self, *_: object) -> None:
        try:
            _check(_libc.setns(self._home, _CLONE_NEWNET), "come home")
        finally:
            os.close(self._home)
