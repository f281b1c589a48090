"""Makes the namespaces of one host and becomes its init there: own processes, own mounts, own hostname, the caller's network.

Nothing made here outlives the init: mounts are private to the namespace, /run is a tmpfs as on a real host, and /sys shows
no cgroup hierarchy, so that no guest lands in one that is shared with the rest of the machine. Run as a program of its own,
because a process with threads cannot safely be forked.

usage: python -m deploy.namespace STATE HOSTNAME
"""

import ctypes
import os
import shutil
import sys
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MNT_DETACH = 2
# What each directory of the host shows inside, relative to the state directory.
BINDS = {
    "/run/libvirt": "libvirt/run",
    "/etc/libvirt": "libvirt/etc",
    "/var/lib/libvirt": "libvirt/lib",
    "/var/log/libvirt": "libvirt/log",
    "/var/cache/libvirt": "libvirt/cache",
    "/etc/ceph": "ceph/etc",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = [text.encode() or None for text in (source, target, kind)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None), f"mount {source} on {target}")


def _mount_all(state: Path) -> None:
    # Unmounts of the machine still arrive here (or its disks would stay busy), but nothing of ours leaves.
    mount("none", "/", flags=MS_REC | MS_SLAVE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _check(_libc.umount2(b"/sys", MNT_DETACH), "umount /sys")
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64m")
    for name in ("lock", "netns", "libvirt", "kumo"):
        os.mkdir(f"/run/{name}")
    for target, source in BINDS.items():
        mount(str(state / source), target, flags=MS_BIND)


def missing_targets() -> list[Path]:
    """Directories to mount on that this machine lacks. Who makes them must remove them again."""
    return [Path(target) for target in BINDS if not target.startswith("/run/") and not Path(target).is_dir()]


def _be_init(state: Path, hostname: str, failed: int) -> None:
    """In the new PID namespace's first process: mount, and become the supervisor. Says on `failed` why it could not."""
    try:
        shutil.rmtree(state / "libvirt" / "run", ignore_errors=True)  # /run starts empty at each boot
        (state / "libvirt" / "run").mkdir()
        _mount_all(state)
        name = hostname.encode()
        _check(_libc.sethostname(name, len(name)), "sethostname")
        os.chdir("/")
        null, log = (
            os.open("/dev/null", os.O_RDWR),
            os.open(state / "log" / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640),
        )
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        command = ["/usr/bin/python3", "-I", "-S", str(state / "venv" / "supervisor.py"), str(state / "run" / "services.json")]
        os.execve(command[0], command, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"})
    except OSError as error:
        os.write(failed, str(error).encode())
    finally:
        os._exit(1)


def start(state: Path, hostname: str) -> None:
    """Start the host's init. Returns when it runs; raises OSError with what it could not do."""
    reading, writing = os.pipe()  # closed by the exec: reading nothing means success
    first = os.fork()
    if not first:
        try:
            os.close(reading)
            os.setsid()
            unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS)
            if not os.fork():
                _be_init(state, hostname, writing)
        except OSError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(first, 0)
    with os.fdopen(reading, "rb") as pipe:
        reason = pipe.read().decode()
    if reason:
        raise OSError(f"the host's namespaces could not be made: {reason}")


if __name__ == "__main__":
    try:
        start(Path(sys.argv[1]), sys.argv[2])
    except OSError as failure:
        sys.exit(str(failure))
