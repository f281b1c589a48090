"""Makes, enters and removes network namespaces that are pinned by a bind mount. What is in them is others'. Standard library only.

setns(2) is per thread: whoever visits a namespace opens sockets there and comes home; a socket belongs to its namespace for ever
and may be used from any thread.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_NSFS_MAGIC = 0x6E736673

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
    if is_pinned(path):
        return False
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    failed: list[OSError] = []

    def make() -> None:
        try:
            _check(_libc.unshare(CLONE_NEWNET), "unshare")
            source = b"/proc/thread-self/ns/net"
            _check(_libc.mount(source, path.encode(), b"none", ctypes.c_ulong(_MS_BIND), None), f"pin {path}")
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return True


def remove(path: str) -> None:
    """Take the pin away; the namespace goes when its last socket does. It may be gone already."""
    while is_pinned(path):
        _check(_libc.umount2(path.encode(), _MNT_DETACH), f"unpin {path}")
    with suppress(FileNotFoundError):
        os.unlink(path)


@contextmanager
def visit(path: str) -> Iterator[None]:
    """Be in the namespace at `path` inside the block: this thread only, so nothing may await in it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(there, CLONE_NEWNET), f"enter {path}")
        finally:
            os.close(there)
        try:
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNET), "come home")
    finally:
        os.close(home)
