"""A lab of several hosts at rest: waits until the auditor finds nothing, and makes guests that end within half a second."""

import time
from functools import partial

from deploy import control
from deploy.image import stub
from tests.flows.audit import Finding, findings
from tests.flows.cloud import until
from tests.flows.hosts import Hosts
from tests.flows.picture import take

IMAGE, FLAVOR, NETWORK = "stub", "stub", "blue"
SETTLED_S = 90.0


def prepare(hosts: Hosts) -> None:
    """Bring the image and the flavor of guests that only wait for their power button, if they are not there."""
    if hosts.state_of("image", IMAGE) != "GONE":
        return
    file = stub.write(hosts.state / "stub.raw")
    hosts.kumo("image", "create", IMAGE, "--file", str(file), "--format", "raw", "--wait")
    hosts.kumo("flavor", "create", FLAVOR, "--vcpus", "1", "--memory", "64", "--disk", "1", "--wait")


def create(hosts: Hosts, name: str, host: str) -> str:
    """Create a server on a host, wait until it runs, and return its uid."""
    with hosts.only_on(host):
        hosts.kumo("server", "create", name, "--image", IMAGE, "--flavor", FLAVOR, "--network", NETWORK, "--no-wait")
        hosts.kumo("server", "wait", name, "--for=Started", "--timeout", "60")
    return str(hosts.server(name)["uid"])


def pids_of(hosts: Hosts, host: str, uid: str) -> set[int]:
    """Return the processes of a server on a host, as the host counts them."""
    found = hosts.exec(host, "pgrep", "-f", f"^[^ ]*qemu-system[^ ]* .*{uid}", check=False)
    return {int(one) for one in found.split()}


def wait_until_clean(hosts: Hosts, what: str, limit_s: float = SETTLED_S) -> None:
    """Wait until nothing is out of place. Raises AssertionError that lists what still is."""
    left: set[Finding] = set()

    def clean() -> bool:
        nonlocal left
        left = findings(take(hosts))
        return not left

    end = time.monotonic() + limit_s
    while not clean():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: after {limit_s:.0f} s still\n" + "\n".join(f"{kind} {thing}" for kind, thing in sorted(left)))
        time.sleep(0.2)


def restart_what_died(hosts: Hosts) -> None:
    """Start at once what the inits of the nodes would start after a while."""
    for node in map(hosts.node, hosts.shape.nodes):
        for one in control.ask(node, "status")["services"]:
            if not one["pid"]:
                control.ask(node, "start", name=one["name"])


def until_all_run(hosts: Hosts) -> None:
    def runs() -> bool:
        restart_what_died(hosts)
        return all(one["pid"] for node in map(hosts.node, hosts.shape.nodes) for one in control.ask(node, "status")["services"])

    until(partial(runs), "every process runs", 60)
