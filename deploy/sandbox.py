"""Runs a command in namespaces of its own: processes, mounts, network. Whatever it starts or makes there ends with it.

The command sees a loopback device that is up and no other, an empty /run and /dev/shm, and the machine's files. Being the init of the PID
namespace, this reaps what the command leaves behind, and its end, however it comes, ends all of them.

usage: python -m deploy.sandbox COMMAND ...
"""

import os
import signal
import subprocess
import sys

from deploy.namespace import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount, unmount

INSIDE = "--inside"


def _enter(command: list[str]) -> None:
    spaces = ["--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", *spaces, "--", sys.executable, "-m", "deploy.sandbox", INSIDE, *command])


def _prepare() -> None:
    # Not over what is there: a lab inside takes one layer off, and libvirt would find the machine's cgroups under it.
    unmount("/sys")
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)  # the one that shows this network namespace's devices
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    os.mkdir("/run/lock")
    if os.path.ismount("/dev/shm"):
        unmount("/dev/shm")
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=20)


def _run(command: list[str]) -> int:
    """Run the command, pass signals on to it, reap everybody; return its exit code."""
    child = os.fork()
    if not child:
        os.execvp(command[0], command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command as well
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] != INSIDE:
        _enter(arguments)
    _prepare()
    sys.exit(_run(arguments[1:]))
