"""Runs the processes of one host: the init (PID 1) of a PID namespace of its own. Standard library only, and small.

It starts what its services file lists, in order, each with the user, capabilities and limits named there; restarts what
ends, with a back-off; reaps whatever is orphaned (libvirt's QEMU processes too); keeps what they print in rotated files;
and answers one control socket. It decides nothing about health or dependencies: a process that lacks another one waits or
ends, and is started again. Being PID 1, its death by SIGKILL is a power failure of the host: the kernel ends all the rest.

usage: supervisor.py SERVICES.json
"""

import base64
import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
STEADY_S = 10.0
LOG_CAP_BYTES = 8 << 20
LOG_OLD_COUNT = 2
REQUEST_CAP_BYTES = 64 << 10


PR_SET_SECCOMP, FILTER_MODE, FILTER_STEP_BYTES = 22, 2, 8


class Filter(ctypes.Structure):
    """The kernel's sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def filter_calls(steps: bytes) -> None:
    """Have the kernel refuse system calls to this process and to what it becomes. Needs CAP_SYS_ADMIN; raises OSError without it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(Filter(len(steps) // FILTER_STEP_BYTES, steps)), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


class Log:
    """One log file with a cap: when full it becomes FILE.1, and FILE.1 becomes FILE.2."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self._size = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        if self._size + len(data) > LOG_CAP_BYTES:
            self._rotate()
        with contextlib.suppress(OSError):  # a full disk must not end the host's init; what was said is lost
            self._size += os.write(self._file, data)

    def _rotate(self) -> None:
        for age in range(LOG_OLD_COUNT, 0, -1):
            older = f"{self._path}.{age - 1}" if age > 1 else self._path
            if os.path.exists(older):
                os.replace(older, f"{self._path}.{age}")
        os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self._size = 0


class Service:
    """One process to keep running, and what is known about it."""

    def __init__(self, spec: dict, log: Log) -> None:  # type: ignore[type-arg]  # what json.load returns
        self.spec = spec
        self.name: str = spec["name"]
        self.log = log
        self.wanted = True
        self.pid = 0
        self.started = 0.0
        self.start_at = 0.0
        self.kill_at = 0.0
        self.delay_s = FIRST_DELAY_S
        self.starts = 0
        self.last_exit: int | None = None

    def argv(self) -> list[str]:
        """Return the command behind `setpriv`, which sets the user, groups and capabilities and then becomes it."""
        spec = self.spec
        if spec.get("as_is"):
            return ["setpriv", "--pdeathsig=KILL", "--", *spec["argv"]]
        uid, capabilities = spec["uid"], spec.get("capabilities")
        command = ["setpriv", f"--reuid={uid}", f"--regid={spec.get('gid', uid)}"]
        groups = spec.get("groups", [])
        command.append(f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups")
        if capabilities is not None:
            listed = ",".join(["-all", *(f"+{name}" for name in capabilities)])
            # Root gets on exec what its bounding set allows; others get what is ambient, which must be inheritable.
            kept = listed if uid else "-all"
            command += [f"--bounding-set={listed}", f"--inh-caps={kept}", f"--ambient-caps={kept}"]
        if spec.get("no_new_privs"):
            command.append("--no-new-privs")
        return [*command, "--", *spec["argv"]]

    def start(self, now: float) -> int:
        """Fork and exec; return the reading end of the pipe that carries its output."""
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self._become(writing)
        os.close(writing)
        os.set_blocking(reading, False)
        self.started, self.kill_at, self.starts = now, 0.0, self.starts + 1
        return reading

    def _become(self, output: int) -> None:
        try:
            os.setsid()
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            if limit := self.spec.get("nofile"):
                most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # raising it is not everywhere allowed, even to root
                limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            if not self.spec.get("core_dumps"):
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.umask(self.spec.get("umask", 0o077))
            os.chdir(self.spec.get("cwd", "/"))
            if calls := self.spec.get("seccomp"):
                filter_calls(base64.b64decode(calls))
            environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
            os.execvpe("setpriv", self.argv(), environment | self.spec.get("env", {}))
        except (OSError, ValueError) as error:
            os.write(2, f"cannot start {self.name}: {error}\n".encode())
        finally:
            os._exit(127)

    def report(self, now: float) -> dict[str, object]:
        state = "running" if self.pid and self.wanted else "stopping" if self.pid else "waiting" if self.wanted else "stopped"
        return {
            "name": self.name,
            "state": state,
            "pid": self.pid,
            "uid": self.spec["uid"],
            "starts": self.starts,
            "up_s": round(now - self.started, 1) if self.pid else 0.0,
            "last_exit": self.last_exit,
        }


class Supervisor:
    """The loop: signals, output of services, requests and timers, one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._services: dict[str, Service] = {}
        self._removed: list[Service] = []
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._read_services()
        self._listen()
        self._wake, wake = os.pipe()
        for end in (self._wake, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._shut_down())

    def run(self) -> None:
        """Return when everything was asked to stop and has stopped."""
        while True:
            now = time.monotonic()
            self._on_timers(now)
            if self._stopping and not any(service.pid for service in self._all()):
                return
            for key, _ in self._selector.select(self._wait_s(now)):
                key.data()

    def _all(self) -> list[Service]:
        return [*self._services.values(), *self._removed]

    def _listen(self) -> None:
        with open(self._path, "rb") as file:
            path = json.load(file)["socket"]
        if os.path.exists(path):
            os.unlink(path)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(path)
        os.chmod(path, 0o600)
        self._server.listen(8)
        self._selector.register(self._server, selectors.EVENT_READ, self._on_request)

    def _read_services(self) -> None:
        """Take over the services file: new ones start, missing ones stop, changed ones restart, the order is the file's."""
        with open(self._path, "rb") as file:
            content = json.load(file)
        before, after = self._services, {}
        for spec in content["services"]:
            name = spec["name"]
            known = before.pop(name, None)
            if known is None:
                known = Service(spec, Log(os.path.join(content["log_dir"], f"{name}.log")))
            elif known.spec != spec:
                known.spec = spec
                self._end(known, signal.SIGTERM)
            after[name] = known
        self._services = after
        for gone in before.values():
            gone.wanted = False
            self._end(gone, signal.SIGTERM)
            self._removed.append(gone)

    def _wait_s(self, now: float) -> float | None:
        due = [service.start_at for service in self._services.values() if service.wanted and not service.pid]
        due += [service.kill_at for service in self._all() if service.pid and service.kill_at]
        return max(0.0, min(due) - now) if due else None

    def _on_timers(self, now: float) -> None:
        for service in self._all():
            if service.pid:
                if service.kill_at and now >= service.kill_at:
                    os.kill(service.pid, signal.SIGKILL)
                    service.kill_at = 0.0
            elif service.wanted and now >= service.start_at:
                output = service.start(now)
                self._selector.register(output, selectors.EVENT_READ, lambda s=service, fd=output: self._on_output(s, fd))
        if self._stopping:
            self._stop_next()
        self._removed = [service for service in self._removed if service.pid]

    def _on_output(self, service: Service, fd: int) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        if data:
            service.log.write(data)
        else:
            self._selector.unregister(fd)
            os.close(fd)

    def _on_signal(self) -> None:
        os.read(self._wake, 4096)
        now = time.monotonic()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for service in self._all():
                if service.pid == pid:
                    self._ended(service, os.waitstatus_to_exitcode(status), now)

    def _ended(self, service: Service, code: int, now: float) -> None:
        service.pid, service.last_exit, service.kill_at = 0, code, 0.0
        if now - service.started >= STEADY_S:
            service.delay_s = FIRST_DELAY_S
        service.start_at = now + service.delay_s
        service.delay_s = min(LONGEST_DELAY_S, service.delay_s * 2)
        if service.wanted:
            service.log.write(f"supervisor: {service.name} ended with {code}\n".encode())

    def _end(self, service: Service, number: int) -> None:
        """Send the service its own stop signal (or SIGKILL, if that is what is asked) and set its deadline."""
        if not service.pid:
            return
        if number == signal.SIGTERM:
            number = signal.Signals[service.spec.get("stop_signal", "SIGTERM")]
            service.kill_at = time.monotonic() + service.spec.get("stop_timeout_s", 5.0)
        os.kill(service.pid, number)

    def _shut_down(self) -> None:
        self._stopping = True
        for service in self._services.values():
            service.wanted = False

    def _stop_next(self) -> None:
        """Stop from the last of the list to the first, one after the other."""
        for service in reversed(self._services.values()):
            if service.pid:
                if not service.kill_at:
                    self._end(service, signal.SIGTERM)
                return

    def _on_request(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            connection.settimeout(1.0)
            try:
                text = b""
                while not text.endswith(b"\n") and len(text) < REQUEST_CAP_BYTES:
                    part = connection.recv(4096)
                    if not part:
                        return
                    text += part
                connection.sendall(json.dumps(self._answer(json.loads(text))).encode() + b"\n")
            except (OSError, ValueError):
                return  # the asker went away or sent no request: nobody is there to be told

    def _answer(self, request: dict[str, object]) -> dict[str, object]:
        do, name = str(request.get("do")), str(request.get("name"))
        if do == "status":
            now = time.monotonic()
            return {"services": [service.report(now) for service in self._services.values()], "stopping": self._stopping}
        if do == "reload":
            self._read_services()
        elif do == "shutdown":
            self._shut_down()
        elif name not in self._services:
            return {"error": f"no service {name!r}; there are {', '.join(self._services)}"}
        elif do in ("start", "stop", "restart"):
            self._change(self._services[name], do)
        elif do == "signal":
            if pid := self._services[name].pid:
                os.kill(pid, int(str(request["signal"])))
        else:
            return {"error": f"unknown request {do!r}"}
        return {}

    def _change(self, service: Service, do: str) -> None:
        service.wanted = do != "stop"
        service.start_at, service.delay_s = time.monotonic(), FIRST_DELAY_S
        if do != "start":
            self._end(service, signal.SIGTERM)


if __name__ == "__main__":
    Supervisor(sys.argv[1]).run()
