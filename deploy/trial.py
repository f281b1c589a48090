"""A lab of one's own, for a test or a benchmark: up in a directory that goes away, on ports that are free, with hands to look inside.

What a user can do goes through the `kumo` command; the rest looks at the parts from outside: etcd, RBD, libvirt, netlink, nftables.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import control
from deploy.layout import CHECKOUT, PORT_COUNT, Lab

UP_S = 600
COMMAND_S = 180


@dataclass(frozen=True)
class Trial:
    """A running lab."""

    lab: Lab

    def kumo(
        self, *arguments: str, check: bool = True, timeout_s: float = COMMAND_S, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the `kumo` command against the lab. With `check`, a failure raises AssertionError with what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=CHECKOUT,
            env=self.environment(),
            input=stdin,
        )
        if check:
            assert done.returncode == 0, f"kumo {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def context(self) -> Path:
        """Return the file by which a client finds the lab."""
        return self.lab.cli / "context.yaml"

    def environment(self) -> dict[str, str]:
        """Variables for a `kumo` command in a process of its own."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("KUMO_")}
        return clean | {"KUMO_CONFIG": str(self.context()), "XDG_CACHE_HOME": str(self.lab.state / "cli-cache")}

    def json(self, *arguments: str) -> Any:
        """Run a `kumo` command with -o json and return what it printed."""
        return json.loads(self.kumo(*arguments, "-o", "json").stdout)

    def inside(self, *command: str, check: bool = True) -> str:
        """Run a command in the host's namespaces and return its output."""
        enter = ["nsenter", f"--target={control.init_pid(self.lab)}", "--mount", "--uts", "--net", "--pid", "--"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=60, check=check).stdout

    def kill(self, service: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one service of the lab; the supervisor starts it again when it ends."""
        os.kill(control.service_pids(self.lab)[service], number)

    def power_off(self) -> None:
        """End every process of the host at once, as a power failure does."""
        init = control.init_pid(self.lab)
        handle = os.pidfd_open(init)
        try:
            os.kill(init, signal.SIGKILL)
            control.wait_for("the end of the host", lambda: not control.is_up(self.lab), 30)
        finally:
            os.close(handle)

    def up(self, *options: str) -> str:
        """Start the lab, or start it again; return what was printed."""
        return _deploy("deploy.up", self.lab, "--port-base", str(self.lab.port_base), *options)

    def down(self) -> str:
        return _deploy("deploy.down", self.lab)


def _deploy(module: str, lab: Lab, *options: str) -> str:
    command = [sys.executable, "-m", module, "--state", str(lab.state), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=UP_S, check=False, cwd=CHECKOUT)
    if done.returncode:
        logs = (
            [f"== {log}\n{log.read_text(errors='replace')[-3000:]}" for log in sorted(lab.log.glob("kumo-*.log"))]
            if lab.log.exists()
            else []
        )
        raise AssertionError(f"{module}: exit {done.returncode}\n{done.stdout}{done.stderr}\n" + "\n".join(logs))
    return done.stdout


def free_port_base() -> int:
    """Return a port base below the kernel's own range whose ports can all be bound now."""
    for _ in range(200):
        base = random.randrange(11000, 31000)
        if all(_is_free(port) for port in range(base, base + PORT_COUNT)):
            return base
    raise RuntimeError("no 60 ports in a row are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def trial(*options: str) -> Iterator[Trial]:
    """Bring up a lab with these options of `deploy.up`, and purge it in the end."""
    state = Path(tempfile.mkdtemp(prefix="kumo-trial-", dir="/tmp"))
    state.chmod(0o755)
    made = Trial(Lab(state, free_port_base()))
    try:
        made.up(*options)
        yield made
    finally:
        with contextlib.suppress(AssertionError):
            _deploy("deploy.down", made.lab, "--purge")
        shutil.rmtree(state, ignore_errors=True)
