"""A lab of several hosts as the flow tests see it: nodes c1 and c2 with the controllers, h1 and so on with servers.

What a user can do goes through the `kumo` command, from a controller that runs: kumo, json, create, only_on. The rest does to a node what
happens to machines (power_off, boot, reboot, cut, mend, add_host, remove_host) and to a process (kill, freeze, thaw, stop, start, restart),
or looks at it: exec and plane run commands, domains, ceph, etcd, agent and api lead to what runs there.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import yaml

from agent.network import netns
from deploy import ceph, control
from deploy.lab.shape import CONTROLLERS, Shape, load
from deploy.layout import CHECKOUT, Lab, Port
from deploy.trial import COMMAND_S, UP_S
from tests.flows.passage import Passage

PLANE = "/run/kumo/netns/dp"


class Hosts:
    """A running lab of several hosts."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._passages: dict[tuple[str, int], Passage] = {}

    @property
    def shape(self) -> Shape:
        found = load(self.state)
        assert found is not None
        return found

    def node(self, name: str) -> Lab:
        return self.shape.node(name)

    # ---- as a user

    def kumo(
        self, *arguments: str, check: bool = True, timeout_s: float = COMMAND_S, via: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the `kumo` command on a controller: `via`, or the first that runs. With `check`, a failure raises AssertionError."""
        pid = control.init_pid(self.node(via or self.controller()))
        command = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", sys.executable, "-m", "cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=CHECKOUT, env=self.environment())
        if check:
            assert done.returncode == 0, f"kumo {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("KUMO_")}
        context = self.shape.whole.cli / "context.yaml"
        return clean | {"KUMO_CONFIG": str(context), "XDG_CACHE_HOME": str(self.state / "cli-cache")}

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kumo(*arguments, "-o", "json").stdout)

    def server(self, name: str) -> Any:
        return self.json("server", "show", name)

    def state_of(self, noun: str, name: str) -> str:
        """Return the state of a resource; GONE where there is none."""
        shown = self.kumo(noun, "show", name, "-o", "json", check=False)
        return json.loads(shown.stdout)["status"].get("state", "") if shown.returncode == 0 else "GONE"

    @contextmanager
    def only_on(self, host: str) -> Iterator[None]:
        """Have new servers go to one host, by cordoning the others."""
        others = [name for name in self.shape.hosts if name != host]
        for name in others:
            self.kumo("host", "cordon", name)
        try:
            yield
        finally:
            for name in others:
                self.kumo("host", "uncordon", name)

    def create(self, name: str, host: str, *options: str) -> None:
        """Create a server on a host and wait until it is ready."""
        with self.only_on(host):
            self.kumo("server", "create", name, *options, "--no-wait")
            self.kumo("server", "wait", name, "--for=ready", "--timeout", "120")
        assert self.server(name)["status"]["host"] == f"hosts/{host}"

    # ---- as whoever stands before the machines

    def controller(self) -> str:
        """Return the first controller node that runs."""
        return next(name for name in CONTROLLERS if control.is_up(self.node(name)))

    def exec(self, name: str, *command: str, check: bool = True) -> str:
        """Run a command on a node and return its output."""
        enter = ["nsenter", f"--target={control.init_pid(self.node(name))}", "--mount", "--uts", "--net", "--pid", "--"]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, timeout=60, check=False)
        if check:
            assert done.returncode == 0, f"{name}: {' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def plane(self, name: str, *command: str, check: bool = True) -> str:
        """Run a command in the data plane of a host."""
        return self.exec(name, "nsenter", f"--net={PLANE}", "--", *command, check=check)

    def kill(self, name: str, service: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process of a node; its init starts it again when it ends."""
        os.kill(control.service_pids(self.node(name))[service], number)

    def stop(self, name: str, service: str) -> None:
        control.ask(self.node(name), "stop", name=service)
        control.wait_for(f"the end of {service} on {name}", lambda: service not in control.service_pids(self.node(name)), 30)

    def start(self, name: str, service: str) -> None:
        control.ask(self.node(name), "start", name=service)

    def restart(self, name: str, service: str) -> None:
        control.ask(self.node(name), "restart", name=service)

    def freeze(self, name: str, service: str) -> None:
        """Have a process stand still, as one that is paged out or whose machine is paused."""
        self.kill(name, service, signal.SIGSTOP)

    def thaw(self, name: str, service: str) -> None:
        self.kill(name, service, signal.SIGCONT)

    def power_off(self, name: str) -> None:
        self.lab("power-off", name)

    def boot(self, name: str) -> None:
        self.lab("boot", name)

    def reboot(self, name: str) -> None:
        self.lab("reboot", name)

    def add_host(self, name: str) -> None:
        self.lab("join", name)

    def remove_host(self, name: str) -> None:
        """Take out a host that has no servers."""
        self.lab("leave", name)

    def cut(self, name: str, *networks: str) -> None:
        """Pull cables of a node, those of some plane networks or all, until mend(), also over boots."""
        self.lab("cut", name, *networks)

    def mend(self, name: str, *networks: str) -> None:
        self.lab("mend", name, *networks)

    def lab(self, *arguments: str) -> str:
        """Run a command of `python -m deploy.lab`."""
        command = [sys.executable, "-m", "deploy.lab", "--state", str(self.state), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=UP_S, check=False, cwd=CHECKOUT)
        assert done.returncode == 0, f"lab {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}{self._logs()}"
        return done.stdout

    def _logs(self) -> str:
        logs = sorted(self.state.glob("nodes/*/log/kumo-*.log"))
        return "".join(f"== {log}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)

    # ---- as whoever looks behind it

    def domains(self, name: str) -> dict[str, bool]:
        """Return the domains of a host's libvirt: uuid → whether it runs."""
        connection = libvirt.open(self.node(name).libvirt_uri)
        try:
            return {domain.UUIDString(): bool(domain.isActive()) for domain in connection.listAllDomains()}
        finally:
            connection.close()

    @contextmanager
    def ceph(self) -> Iterator[Any]:
        """A connection to Ceph as its administrator."""
        first = self.node(CONTROLLERS[0])
        with netns.visit(f"/proc/{control.init_pid(first)}/ns/net"), ceph.admin(first) as cluster:
            yield cluster

    def api(self, name: str) -> str:
        """Return an address on this side that leads to the region's API on a controller."""
        return self._passage(name, "127.0.0.1", Port.API).address

    def agent(self, name: str) -> str:
        """Return an address on this side that leads to the agent of a host."""
        return self._passage(name, self.node(name).addresses.management, Port.AGENT).address

    def etcd(self) -> str:
        first = self.node(CONTROLLERS[0])
        return self._passage(first.host, first.addresses.management, Port.ETCD_CLIENT).address

    def context(self) -> Path:
        """Return a file by which clients on this side find the region, at the first controller that runs."""
        file = self.state / "cli" / "here.yaml"
        content = yaml.safe_load((self.shape.whole.cli / "context.yaml").read_text())
        content["contexts"]["local"]["address"] = self.api(self.controller())
        file.write_text(yaml.safe_dump(content))
        return file

    def _passage(self, name: str, address: str, port: Port) -> Passage:
        key = (name, int(port))
        if key not in self._passages:
            target = (address, self.node(name).port(port))
            self._passages[key] = Passage(partial(_init_pid, self.node(name)), target)
        return self._passages[key]

    def close(self) -> None:
        for passage in self._passages.values():
            passage.close()


def _init_pid(node: Lab) -> int:
    return control.init_pid(node)


@contextmanager
def running_hosts(*options: str) -> Iterator[Hosts]:
    """Bring up a lab with these options of `python -m deploy.lab up`, and purge it in the end."""
    parent = Path(tempfile.mkdtemp(prefix="kumo-lab-", dir="/tmp"))
    parent.chmod(0o755)
    made = Hosts(parent / "lab")
    try:
        made.lab("up", *options)
        yield made
    finally:
        made.close()
        with contextlib.suppress(AssertionError):
            made.lab("purge")
        shutil.rmtree(parent, ignore_errors=True)
