"""Makes the namespaces of one host and becomes its init there: own processes, own mounts, own hostname, the caller's network.

Nothing made here outlives the init: mounts are private to the namespace, /run and /dev are its own as on a real host, and /sys shows
no cgroup hierarchy, so that no guest lands in one that is shared with the rest of the machine. Run as a program of its own,
because a process with threads cannot safely be forked.

With --network the host has a network of its own as well, empty but for a loopback device.

usage: python -m deploy.namespace STATE SUPERVISOR HOSTNAME [--network]
"""

import contextlib
import ctypes
import os
import shutil
import stat
import sys
from pathlib import Path

from deploy.layout import User

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
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
DEVICES = {
    "null": 0o666,
    "zero": 0o666,
    "full": 0o666,
    "random": 0o666,
    "urandom": 0o666,
    "tty": 0o666,
    "net/tun": 0o666,
    "vhost-net": 0o660,
    "kvm": 0o660,
}
FILES = {name: f"run/{Path(name).name}" for name in ("/etc/hosts", "/etc/resolv.conf", "/etc/passwd", "/etc/group")}
# libvirtd does not start without a user of this name, even when it is told to use another.
LIBVIRT_USER = "libvirt-qemu"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def enter_network(pid: int) -> None:
    """Move this process, which must have one thread, into the network of another."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        _check(_libc.setns(descriptor, CLONE_NEWNET), f"enter the network of process {pid}")
    finally:
        os.close(descriptor)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = [text.encode() or None for text in (source, target, kind)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None), f"mount {source} on {target}")


def unmount(target: str) -> None:
    """Take away what is mounted on `target` and below it, as soon as nobody uses it."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def _mount_all(state: Path) -> None:
    # Unmounts of the machine still arrive here (or its disks would stay busy), but nothing of ours leaves.
    mount("none", "/", flags=MS_REC | MS_SLAVE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    unmount("/sys")
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _clear("/run")
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64m")
    for name in ("lock", "netns", "libvirt", "kumo"):
        os.mkdir(f"/run/{name}")
    for target, source in (BINDS | FILES).items():
        if target in BINDS or os.path.exists(target):
            mount(str(state / source), target, flags=MS_BIND)

    _make_devices()


def _clear(path: str) -> None:
    """Unmount whatever is mounted at `path` and below. What is only covered stays listed, and libvirt stumbles over it."""
    with open("/proc/self/mounts") as file:
        targets = [line.split()[1] for line in file]
    for target in reversed(targets):
        if target == path or target.startswith(f"{path}/"):
            _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def _make_devices() -> None:
    """Give the host a /dev of its own: the devices that its processes use, terminals and shared memory that end with it.

    /dev/kvm is open to QEMU's group here, whoever has it outside. Where QEMU's user may not open it, libvirt, which looks with more
    rights than that user has, would probe QEMU anew at every question, dozens of times at each start of a guest.
    """
    found = {}
    for name, mode in DEVICES.items():
        with contextlib.suppress(FileNotFoundError):
            found[name] = (os.stat(f"/dev/{name}").st_rdev, mode)
    # Not over what is there: libvirt moves each mount below /dev that the table names, and a hidden one cannot be moved.
    unmount("/dev")
    _clear("/dev")
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=1m")
    for folder in ("net", "pts", "shm"):
        os.mkdir(f"/dev/{folder}")
    for name, (device, mode) in found.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR, device)
        os.chmod(f"/dev/{name}", mode)
    if "kvm" in found:
        os.chown("/dev/kvm", 0, User.QEMU)
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    for name, target in links.items():
        os.symlink(target, f"/dev/{name}")


def _write_names(state: Path, hostname: str) -> None:
    """The host knows its own name and asks no name server for it: libvirt asks at each start of a guest, and waits for the answer."""
    (state / "run" / "hosts").write_text(f"127.0.0.1 localhost {hostname}\n::1 localhost\n")
    (state / "run" / "resolv.conf").write_text("# nothing here needs names of elsewhere\n")
    entries = {
        "passwd": f"{LIBVIRT_USER}:x:{User.QEMU:d}:{User.QEMU:d}::/:/usr/sbin/nologin\n",
        "group": f"{LIBVIRT_USER}:x:{User.QEMU:d}:\n",
    }
    for name, entry in entries.items():
        text = Path("/etc", name).read_text()
        known = f"\n{LIBVIRT_USER}:" in f"\n{text}"
        (state / "run" / name).write_text(text if known else text.rstrip("\n") + f"\n{entry}")
    for name in (*entries, "hosts", "resolv.conf"):
        (state / "run" / name).chmod(0o644)


def missing_targets() -> list[Path]:
    """Directories to mount on that this machine lacks. Who makes them must remove them again."""
    return [Path(target) for target in BINDS if not target.startswith("/run/") and not Path(target).is_dir()]


def _be_init(state: Path, supervisor: str, hostname: str, failed: int) -> None:
    """In the new PID namespace's first process: mount, and become the supervisor. Says on `failed` why it could not."""
    try:
        shutil.rmtree(state / "libvirt" / "run", ignore_errors=True)  # /run starts empty at each boot
        (state / "libvirt" / "run").mkdir()
        _write_names(state, hostname)
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
        command = ["/usr/bin/python3", "-I", "-S", supervisor, str(state / "run" / "services.json")]
        os.execve(command[0], command, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"})
    except OSError as error:
        os.write(failed, str(error).encode())
    finally:
        os._exit(1)


def start(state: Path, supervisor: str, hostname: str, *, network: bool) -> None:
    """Start the host's init. Returns when it runs; raises OSError with what it could not do."""
    reading, writing = os.pipe()  # closed by the exec: reading nothing means success
    first = os.fork()
    if not first:
        try:
            os.close(reading)
            os.setsid()
            unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | (CLONE_NEWNET if network else 0))
            if not os.fork():
                _be_init(state, supervisor, hostname, writing)
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
        start(Path(sys.argv[1]), sys.argv[2], sys.argv[3], network="--network" in sys.argv[4:])
    except OSError as failure:
        sys.exit(str(failure))
