"""Runs one program as nobody in particular: in its own mount, network, PID, IPC and UTS namespaces, with a root that holds the
system's programs read-only and the files it was given, with limits, with few system calls, and with no way to gain privileges.

A program of its own (`python -I -S jail.py '<json>'`) with the standard library alone, because what it does to itself cannot be done in a
process with threads. It has three parts: the outer process makes the namespaces, the inner one is their init, the third becomes the
program. Each ends with its parent.
"""

import base64
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

_NEWNS, _NEWUTS, _NEWIPC, _NEWPID, _NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_FILTER_MODE, _FILTER_STEP_BYTES = 2, 8
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_LAST_CAPABILITY = 63
# One arena of malloc for all threads, or each of them maps 64 MiB for its own.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"}

_libc = ctypes.CDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if one is None else one.encode() for one in (source, target, kind, data)]
    _call("mount", encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])


def _bind(source: str, root: str, target: str, writable: bool) -> None:
    """Show a file or folder of the host's inside the new root."""
    inside = root + target
    if os.path.isdir(source):
        os.makedirs(inside, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        os.close(os.open(inside, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source, inside, None, _MS_BIND | (_MS_REC if os.path.isdir(source) else 0))
    device = source.startswith("/dev/")
    flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | (0 if device else _MS_NODEV) | (0 if writable else _MS_RDONLY)
    _mount("none", inside, None, flags)


def _make_root(root: str, binds: list[tuple[str, str, bool]]) -> None:
    """Make `root` the root of this mount namespace, with the system's folders and `binds` in it."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("none", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    for folder in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            os.symlink(os.readlink(folder), root + folder)
        elif os.path.isdir(folder):
            _bind(folder, root, folder, False)
    for source, target, writable in [("/usr", "/usr", False), ("/dev/null", "/dev/null", True), *binds]:
        _bind(source, root, target, writable)
    os.makedirs(f"{root}/.old")
    number = _PIVOT_ROOT[os.uname().machine]
    if _libc.syscall(number, root.encode(), f"{root}/.old".encode()) != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    _call("umount2", b"/.old", _MNT_DETACH)
    os.rmdir("/.old")
    _mount("none", "/", None, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _end_with_parent(parent: int) -> None:
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _become_nobody(user: int, limits: dict[str, int]) -> None:
    for name, value in {"CORE": 0, "NOFILE": 64, "NPROC": 128, "STACK": 1 << 20, "MEMLOCK": 0, **limits}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    for capability in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # one that this kernel does not know, and so the last
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Changing users has switched off that it ends with its parent.
    _end_with_parent(1)


def _program(order: dict[str, Any]) -> None:
    os.umask(0o077)
    _become_nobody(order["user"], order["limits"])
    steps = base64.b64decode(order["filter"])
    whole = _Filter(len(steps) // _FILTER_STEP_BYTES, steps)
    _call("prctl", _PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(whole), 0, 0)
    os.execve(order["argv"][0], order["argv"], _ENVIRONMENT)


def _forked(work: Any) -> int:
    """Run `work`, which does not return, in a child and return its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # the child must not go on as its parent
            os.write(2, f"jail: {error}\n".encode())
        os._exit(125)
    return os.waitpid(child, 0)[1]


def main() -> None:
    order = json.loads(sys.argv[1])
    _end_with_parent(order["parent"])
    os.setsid()
    _call("unshare", _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET)
    _make_root(order["root"], [tuple(bind) for bind in order["binds"]])

    def init() -> None:
        # Seen from in here the outer process has no pid: 0 is it, and another number would be its heir.
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != 0:
            os._exit(1)
        status = _forked(lambda: _program(order))
        os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))

    status = _forked(init)
    sys.exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


if __name__ == "__main__":
    main()
