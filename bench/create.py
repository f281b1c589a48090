"""What Kumo adds to libvirt: from CreateServer until libvirt says that the guest runs, less the same done by hand.

By hand means: the same domain, under another name and with an equal clone that was made before the clock started, defined and
started through libvirt-python, with its port's rules in force. So that both have the same port, a server is created and stopped
first; while its domain is started by hand, the agent is paused and cannot object. Half of the servers are on a network that is new
to the host. The image is a boot sector that only ticks.

usage: python -m bench.create [--json]
"""

import signal
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import libvirt

from bench.lab import enter_sandbox, region
from bench.results import Row, hand_in
from cli.client import Client
from cli.contexts import load
from deploy import ceph
from deploy.image import stub
from deploy.trial import Trial
from kumo.api.compute.v1.server_pb2 import CreateServerRequest, Server

PAIRS = 20
NETWORK = "bench"


class Bench:
    """A lab, with libvirt's events and the API at hand."""

    def __init__(self, lab: Trial, client: Client, hypervisor: "libvirt.virConnect") -> None:
        self._lab, self._client, self._hypervisor = lab, client, hypervisor
        self._running: dict[str, float] = {}
        hypervisor.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None)

    def _on_event(self, _connection: object, domain: "libvirt.virDomain", event: int, _detail: int, _opaque: object) -> None:
        # The agent starts a guest paused, notes who has its disk, and resumes it: only then does it run.
        if event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            self._running[domain.UUIDString()] = time.perf_counter()

    def _running_since(self, uid: str) -> float:
        end = time.monotonic() + 60
        while uid not in self._running:
            assert time.monotonic() < end, f"{uid} does not run"
            libvirt.virEventRunDefaultImpl()
        return self._running[uid]

    def create(self, name: str, network: str) -> tuple[str, float]:
        """Create a server and return its uid and the milliseconds until libvirt said that it runs."""
        request = CreateServerRequest(parent="projects/default", server_id=name, request_id=str(uuid.uuid4()))
        request.server.spec.flavor, request.server.spec.image = "flavors/tiny", "projects/default/images/stub"
        request.server.spec.nics.add(network=f"projects/default/networks/{network}")
        began = time.perf_counter()
        server = self._client.unary("kumo.api.compute.v1.Servers/CreateServer", request, Server, doing="create a server")
        return server.uid, 1000 * (self._running_since(server.uid) - began)

    def by_hand(self, uid: str) -> float:
        """Define and start the stopped server's domain under another name; return the milliseconds that took."""
        definition = ET.fromstring(self._hypervisor.lookupByUUIDString(uid).XMLDesc())
        other = str(uuid.uuid4())
        self._find(definition, "name").text = f"by-hand-{other[:8]}"
        self._find(definition, "uuid").text = other
        source = self._find(definition, "devices/disk/source")
        pool, _, image = source.attrib["name"].partition("/")
        for log in definition.iter("log"):
            log.set("file", log.attrib["file"] + ".by-hand")
        with self._clone(pool, image) as clone, self._agent_paused():
            source.set("name", f"{pool}/{clone}")
            text = ET.tostring(definition, encoding="unicode")
            began = time.perf_counter()
            domain = self._hypervisor.defineXML(text)
            domain.create()
            took = 1000 * (time.perf_counter() - began)
            domain.destroy()
            domain.undefine()
        return took

    @staticmethod
    def _find(element: ET.Element, path: str) -> ET.Element:
        found = element.find(path)
        assert found is not None, path
        return found

    @contextmanager
    def _clone(self, pool: str, image: str) -> Iterator[str]:
        """Make a clone of what `image` is a clone of."""
        import rbd

        name = f"by-hand-{uuid.uuid4().hex}"
        with ceph.admin(self._lab.lab) as cluster, cluster.open_ioctx(pool) as io:
            cluster.conf_set("rbd_default_clone_format", "2")
            with rbd.Image(io, image, read_only=True) as disk:
                parent_pool, parent, snapshot = disk.parent_info()
                features = disk.features()
            with cluster.open_ioctx(parent_pool) as parent_io:
                rbd.RBD().clone(parent_io, parent, snapshot, io, name, features=features)
            try:
                yield name
            finally:
                rbd.RBD().remove(io, name)

    @contextmanager
    def _agent_paused(self) -> Iterator[None]:
        self._lab.kill("kumo-agent", signal.SIGSTOP)
        try:
            yield
        finally:
            self._lab.kill("kumo-agent", signal.SIGCONT)

    def pair(self, number: int) -> tuple[float, float]:
        """Measure one create and one start by hand."""
        name, network = f"bench-{number}", NETWORK
        if number % 2:
            network = f"bench-{number}"
            self._lab.kumo("network", "create", network, "--cidr", "10.8.0.0/24")
        uid, created = self.create(name, network)
        self._lab.kumo("server", "stop", name, "--hard", "--wait", "--timeout", "60")
        by_hand = self.by_hand(uid)
        self._lab.kumo("server", "delete", name, "--wait", "--timeout", "60")
        return created, by_hand


@contextmanager
def hands(lab: Trial) -> Iterator[Bench]:
    libvirt.virEventRegisterDefaultImpl()
    hypervisor = libvirt.open(lab.lab.libvirt_uri)
    client = Client(load(lab.lab.cli / "context.yaml").known["local"])
    try:
        yield Bench(lab, client, hypervisor)
    finally:
        client.close()
        hypervisor.close()


def main() -> None:
    enter_sandbox("bench.create")
    with region() as lab, tempfile.TemporaryDirectory() as folder:
        file = stub.write(Path(folder) / "stub.raw")
        lab.kumo("image", "create", "stub", "--file", str(file), "--format", "raw", "--wait")
        lab.kumo("network", "create", NETWORK, "--cidr", "10.8.0.0/24")
        with hands(lab) as bench:
            # Somebody is on the old network throughout, so that the host has it.
            bench.create("resident", NETWORK)
            bench.pair(0)
            pairs = [bench.pair(number) for number in range(1, PAIRS + 1)]
    created, by_hand = (median(column) for column in zip(*pairs, strict=True))
    overhead = median(value - baseline for value, baseline in pairs)
    hand_in([Row("create.overhead_ms", round(overhead, 1), "ms", len(pairs), round(by_hand, 1), round(created / by_hand, 2))])


if __name__ == "__main__":
    main()
