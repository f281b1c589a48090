"""Talks to a lab's supervisor: what runs, start, stop, kill, restart; finds its processes from outside; one at a time. Starts no lab."""

import fcntl
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from deploy.layout import Lab

ANSWER_S = 5.0
ENDED_S = 60.0


class Setting(TypedDict, total=False):
    """What may be said of how a process is run."""

    gid: int
    groups: list[int]
    capabilities: list[str] | None  # none listed: all of them; an empty list: none
    no_new_privs: bool
    seccomp: str  # a filter of system calls, in base64
    env: dict[str, str]
    cwd: str
    umask: int
    nofile: int
    core_dumps: bool
    as_is: bool  # as whoever runs the supervisor, and ended with it, whatever ends it
    stop_signal: str
    stop_timeout_s: float


class Service(Setting):
    """One process for the supervisor to keep running, as it stands in the services file."""

    name: str
    argv: list[str]
    uid: int


class Down(Exception):
    """The lab does not run."""


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the lock of a lab: two starts, or a start and a stop, of one lab do not mix. Raises RuntimeError if it is taken."""
    state.mkdir(parents=True, exist_ok=True)
    lock = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError("another `make up`, `down` or `purge` works on this lab") from None
        yield
    finally:
        os.close(lock)


def _connect(lab: Lab) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_S)
    try:
        connection.connect(str(lab.socket))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        raise Down(f"no lab runs in {lab.state}") from None
    return connection


def ask(lab: Lab, do: str, **arguments: str | int) -> Any:
    """Send one request and return the answer. Raises Down, or RuntimeError with the supervisor's refusal."""
    with _connect(lab) as connection:
        connection.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        with connection.makefile("rb") as file:
            line = file.readline()
    if not line:
        raise Down(f"the supervisor in {lab.state} ended")
    answer = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def is_up(lab: Lab) -> bool:
    """A socket that nobody listens on, as kill -9 leaves it, is not up."""
    try:
        _connect(lab).close()
    except Down:
        return False
    return True


def init_pid(lab: Lab) -> int:
    """The host's init as this PID namespace numbers it: asked of the kernel, so it is never stale. Raises Down."""
    with _connect(lab) as connection:
        pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def shut_down(lab: Lab) -> None:
    """Have the supervisor stop everything in order, and return when it has ended too; after a minute, end it."""
    init = init_pid(lab)
    ask(lab, "shutdown")
    try:
        handle = os.pidfd_open(init)
    except ProcessLookupError:
        return
    try:
        if not select.select([handle], [], [], ENDED_S)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], ENDED_S)
    finally:
        os.close(handle)


def processes(lab: Lab) -> dict[int, int]:
    """Every process of the lab: pid inside its namespace -> pid here."""
    space = os.readlink(f"/proc/{init_pid(lab)}/ns/pid")
    found = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                if os.readlink(directory / "ns" / "pid") == space:
                    line = next(line for line in (directory / "status").read_text().splitlines() if line.startswith("NSpid:"))
                    found[int(line.split()[-1])] = int(directory.name)
            except (OSError, StopIteration):
                continue  # it ended meanwhile
    return found


def service_pids(lab: Lab) -> dict[str, int]:
    """Name of each running service -> pid here."""
    inside = processes(lab)
    return {one["name"]: inside[one["pid"]] for one in ask(lab, "status")["services"] if one["pid"] in inside}


def write_services(lab: Lab, services: list[Service]) -> None:
    content = {"socket": str(lab.socket), "log_dir": str(lab.log), "services": services}
    fresh = lab.services.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1))
    fresh.rename(lab.services)


def wait_for(what: str, check: Callable[[], bool], limit_s: float, *, pause_s: float = 0.03) -> None:
    """Ask `check` until it is true. Raises TimeoutError that names what was waited for."""
    end = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(pause_s)
