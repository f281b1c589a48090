"""Has the processes of a lab die at chosen steps: Kumo's own by themselves, others by a kill while one of Kumo's stands still.

A step is what dying_process.py counts. Which steps there are is written down by a clean run.
"""

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy import control
from deploy.layout import Lab, User
from tests.flows.cloud import until
from tests.flows.hosts import Hosts
from tests.flows.settled import until_all_run

PROGRAM = Path(__file__).parent / "dying_process.py"
# What never comes: a plan that only writes the steps down.
NEVER = -1
OWN = ("kumo-controller-region", "kumo-controller-cell", "kumo-agent")
# Who is killed from outside, and where.
OTHERS: Mapping[str, tuple[str, str]] = {
    "etcd": ("c1", "etcd"),
    "OSD": ("c1", "ceph-osd"),
    "libvirtd": ("h1", "libvirtd"),
    "guest responder": ("h1", "kumo-guest-responder"),
}


@dataclass(frozen=True)
class Death:
    """Who dies: "itself" or one of OTHERS, just before or after the n-th step that processes of one kind take in one act."""

    victim: str
    act: str
    process: str
    index: int
    when: str

    def __str__(self) -> str:
        who = self.process if self.victim == "itself" else self.victim
        return f"{who} dies {self.when} step {self.index} of {self.process} in {self.act}"


class Mortals:
    """The processes of a lab that die on demand. A kind of processes is a service, for agents with its host."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.folders: dict[str, list[Path]] = {}

    def plan(self, process: str, index: int, when: str, do: str) -> None:
        for folder in self.folders[process]:
            for name in ("steps", "go", "plan"):
                (folder / name).unlink(missing_ok=True)
            fresh = folder / "plan.new"
            fresh.write_text(json.dumps({"id": uuid.uuid4().hex, "index": index, "when": when, "do": do}))
            fresh.replace(folder / "plan")

    def steps(self, process: str) -> list[str]:
        files = [folder / "steps" for folder in self.folders[process]]
        return [line for file in files if file.exists() for line in file.read_text().splitlines()]

    def forget(self, process: str) -> bool:
        """Take a plan back; whether it has struck somewhere."""
        struck = False
        for folder in self.folders[process]:
            try:
                (folder / "plan").unlink()
            except FileNotFoundError:
                struck = True
        return struck

    def has_struck(self, process: str) -> bool:
        return any(not (folder / "plan").exists() for folder in self.folders[process])

    def kill(self, victim: str, process: str) -> None:
        """Kill somebody else and let the process that stands still go on, once the victim is dead."""
        node, service = OTHERS[victim]
        before = control.service_pids(self.hosts.node(node)).get(service)
        with contextlib.suppress(KeyError, ProcessLookupError):
            self.hosts.kill(node, service)
        until(lambda: control.service_pids(self.hosts.node(node)).get(service) != before, f"the end of {victim}", 20)
        for folder in self.folders[process]:
            if not (folder / "plan").exists():
                (folder / "go").touch()

    def record(self) -> None:
        for process in self.folders:
            self.plan(process, NEVER, "before", "die")

    def recorded(self) -> dict[str, list[str]]:
        found = {process: self.steps(process) for process in self.folders}
        for process in self.folders:
            self.forget(process)
        return found


@contextmanager
def mortal(hosts: Hosts) -> Iterator[Mortals]:
    """Put processes that die in place of the real ones, and take them out again."""
    made = Mortals(hosts)
    before = {name: hosts.node(name).services.read_text() for name in hosts.shape.nodes}
    try:
        for name in hosts.shape.nodes:
            _replace(made, name)
        until_serving(hosts)
        yield made
    finally:
        for name, text in before.items():
            _run(hosts.node(name), json.loads(text)["services"])
        until_serving(hosts)


def _replace(made: Mortals, name: str) -> None:
    node = made.hosts.node(name)
    services: list[control.Service] = json.loads(node.services.read_text())["services"]
    for service in services:
        if service["name"] not in OWN:
            continue
        folder = node.run / f"dying-{service['name']}"
        folder.mkdir(exist_ok=True)
        shutil.copy(PROGRAM, folder)
        if service["name"] != "kumo-agent":
            shutil.chown(folder, User.CONTROLLER, User.CONTROLLER)
        at = service["argv"].index("-m")
        service["argv"] = [*service["argv"][:at], str(folder / PROGRAM.name), str(folder), *service["argv"][at + 1 :]]
        process = service["name"] if service["name"] != "kumo-agent" else f"kumo-agent {name}"
        made.folders.setdefault(process, []).append(folder)
    _run(node, services)


def _run(node: Lab, services: list[control.Service]) -> None:
    """Have the init run Kumo's processes by other commands, and return when the old ones are gone."""
    before = control.service_pids(node)
    control.write_services(node, services)
    control.ask(node, "reload")
    ours = [one["name"] for one in services if one["name"] in OWN]
    for name in ours:
        control.ask(node, "restart", name=name)
    until(
        lambda: not set(before.items()) & {(name, control.service_pids(node).get(name)) for name in ours}, f"others run on {node.host}", 30
    )


def until_serving(hosts: Hosts) -> None:
    """Wait until every process runs and the region says that each host is up."""
    until_all_run(hosts)

    def all_up() -> bool:
        listed = hosts.kumo("host", "list", "-o", "json", check=False)
        return listed.returncode == 0 and listed.stdout.count('"UP"') >= len(hosts.shape.hosts)

    until(all_up, "every host is up", 60)
