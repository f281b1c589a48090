"""Throw-away etcd clusters for tests: real members on ports from the kernel, to be killed, frozen, restarted and thrown away.

fsync is off unless asked for. Every process is ended by its own pid, and its folder removed, also when a test is interrupted.
"""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from deploy.etcd_binary import ensure
from kumo.tls import TlsFiles

_START_S = 30.0


@cache
def binary() -> Path:
    etcd, _ = ensure()
    return etcd.path


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Member:
    """One etcd process; its data outlives it until the cluster goes."""

    def __init__(self, name: str, ports: tuple[int, int], folder: Path, flags: Sequence[str]) -> None:
        """`ports` are for clients and for peers."""
        self.name, self.port, self.peer_port = name, *ports
        self.folder = folder
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def program(self) -> list[str]:
        return [str(binary()), *self._flags]

    def launch(self) -> None:
        """Start the process without waiting for it."""
        log = self.folder.parent / f"{self.name}.log"
        with log.open("ab") as output:
            # It dies with the tests, also when those are killed and can clean up nothing.
            command = ["setpriv", "--pdeathsig", "KILL", *self.program()]
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_until_open(self) -> None:
        """Return once it accepts clients, which a member does when its cluster has a leader."""
        deadline = time.monotonic() + _START_S
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError((self.folder.parent / f"{self.name}.log").read_text()[-2000:])
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(self.name)
            time.sleep(0.02)

    def start(self) -> None:
        self.launch()
        self.wait_until_open()

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait()

    def freeze(self) -> None:
        """Stop the process, and return once all of its threads have stopped: until then it may still answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + _START_S
        while not all(_is_stopped(thread) for thread in Path(f"/proc/{self.pid}/task").iterdir()):
            if time.monotonic() > deadline:
                raise TimeoutError(self.name)
            time.sleep(0.001)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _is_stopped(thread: Path) -> bool:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "TtZX"
    except OSError:
        return True


class Cluster:
    """Members that know each other."""

    def __init__(self, folder: Path, members: list[Member]) -> None:
        self.folder, self.members = folder, members

    @property
    def addresses(self) -> list[str]:
        return [member.address for member in self.members]

    def start(self) -> None:
        for member in self.members:
            member.launch()
        for member in self.members:
            member.wait_until_open()

    def end(self) -> None:
        for member in self.members:
            member.end()


def _flags(name: str, ports: tuple[int, int], folder: Path, initial: str, tls: TlsFiles | None) -> list[str]:
    client, peer = f"{'https' if tls else 'http'}://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    flags = {
        "name": name,
        "data-dir": str(folder),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": initial,
        "initial-cluster-token": folder.parent.name,
        "logger": "zap",
        "log-level": "warn",
        # As Kumo starts its own.
        "max-txn-ops": "1024",
    }
    if tls is not None:
        flags |= {"cert-file": str(tls.cert), "key-file": str(tls.key), "trusted-ca-file": str(tls.ca), "client-cert-auth": "true"}
    return [f"--{key}={value}" for key, value in flags.items()]


@contextmanager
def cluster(
    count: int = 1, *, extra: Sequence[str] = (), is_durable: bool = False, tls: TlsFiles | None = None, place: Path | None = None
) -> Generator[Cluster, None, None]:
    """Start `count` members with the flags in `extra`; `is_durable` keeps fsync on; with `tls`, clients need a certificate of its CA.

    `place` is a folder to keep everything in, on a disk of its own perhaps.
    """
    root = Path(tempfile.mkdtemp(prefix="kumo-test-etcd-", dir=place))
    names = [f"m{number}" for number in range(count)]
    ports = free_ports(2 * count)
    pairs = list(zip(ports[:count], ports[count:], strict=True))
    initial = ",".join(f"{name}=http://127.0.0.1:{peer}" for name, (_, peer) in zip(names, pairs, strict=True))
    more = [*extra, *([] if is_durable else ["--unsafe-no-fsync"])]
    members = []
    for name, pair in zip(names, pairs, strict=True):
        flags = _flags(name, pair, root / name, initial, tls)
        members.append(Member(name, pair, root / name, [*flags, *more]))
    made = Cluster(root, members)
    try:
        made.start()
        yield made
    finally:
        made.end()
        shutil.rmtree(root, ignore_errors=True)
