"""The controller is killed before and after every commit and call of a create and of a delete; nothing is lost, doubled or left."""

import json
import random
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.client import Client
from cli.contexts import load
from cli.failure import Exit, Failure
from deploy import control, processes
from deploy.image import stub
from deploy.layout import User
from kumo.api.compute.v1.server_pb2 import CreateServerRequest, DeleteServerRequest, GetServerRequest, Server
from tests.flows.cloud import Cloud, World, assert_nothing_left, until

SERVICE = processes.CONTROLLER
# More steps than a create or a delete takes; the walk ends by itself when a plan has not struck.
MOST_STEPS = 100
# `hello`, and the one under test.
RUNNING = 2
# Every how many deaths the whole world is looked at: what is left stays, so that it is found at the next look.
LOOKED_AT = 8


@dataclass(frozen=True)
class Dying:
    """A cloud whose controller dies on demand."""

    cloud: Cloud
    folder: Path
    before: World

    def plan(self, index: int, when: str) -> None:
        (self.folder / "steps").unlink(missing_ok=True)
        fresh = self.folder / "plan.new"
        fresh.write_text(json.dumps({"index": index, "when": when, "id": uuid.uuid4().hex}))
        fresh.replace(self.folder / "plan")

    def has_struck(self) -> bool:
        """Whether the controller died; takes the plan back if it did not."""
        try:
            (self.folder / "plan").unlink()
        except FileNotFoundError:
            return True
        return False

    def reaches(self, name: str, state: str) -> bool:
        """Whether a server is in `state`; the controller is started at once where it died, not when the supervisor's patience says."""
        services = control.ask(self.cloud.lab, "status")["services"]
        if any(one["name"] == SERVICE and not one["pid"] for one in services):
            control.ask(self.cloud.lab, "start", name=SERVICE)
        return self.state_of(name) == state

    def state_of(self, name: str) -> str:
        """Return the state of a server; GONE where there is none, AWAY while the controller does not answer."""
        try:
            with api(self.cloud) as client:
                request = GetServerRequest(name=f"projects/default/servers/{name}")
                server = client.unary("kumo.api.compute.v1.Servers/GetServer", request, Server, doing="look")
        except Failure as failure:
            if failure.exit in (Exit.NOT_FOUND, Exit.UNAVAILABLE):
                return "GONE" if failure.exit is Exit.NOT_FOUND else "AWAY"
            raise
        return Server.State.Name(server.status.state)

    def steps(self) -> list[str]:
        file = self.folder / "steps"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture(scope="module")
def dying(cloud: Cloud, small: str, sky: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dying]:
    """Put the controller that dies in place of the real one, and take it out again."""
    del small, sky
    file = stub.write(tmp_path_factory.mktemp("stub") / "stub.raw")
    cloud.kumo("image", "create", "stub", "--file", str(file), "--format", "raw", "--wait")
    folder = cloud.lab.run / "dying"
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "dying_controller.py", folder)
    shutil.chown(folder, User.CONTROLLER, User.CONTROLLER)
    content = json.loads(cloud.lab.services.read_text())
    true: control.Service = next(service for service in content["services"] if service["name"] == SERVICE)
    options = true["argv"][true["argv"].index("controller.main") + 1 :]
    false: control.Service = {**true, "argv": [str(cloud.lab.python), "-I", str(folder / "dying_controller.py"), str(folder), *options]}
    try:
        replace(cloud, true, false)
        yield Dying(cloud, folder, cloud.world())
    finally:
        replace(cloud, false, true)
        cloud.kumo("image", "delete", "stub", "--wait")


def replace(cloud: Cloud, old: control.Service, new: control.Service) -> None:
    """Let the supervisor run another command under the controller's name."""
    services = [new if service == old else service for service in json.loads(cloud.lab.services.read_text())["services"]]
    control.write_services(cloud.lab, services)
    control.ask(cloud.lab, "reload")
    control.ask(cloud.lab, "restart", name=SERVICE)
    until(lambda: cloud.kumo("server", "list", check=False).returncode == 0, "the controller serves", 60)


@contextmanager
def api(cloud: Cloud) -> Iterator[Client]:
    """A new connection, so that none waits before it dials a controller that has just come back."""
    client = Client(load(cloud.lab.cli / "context.yaml").known["local"], timeout_s=5)
    try:
        yield client
    finally:
        client.close()


def insist(dying: Dying, method: str, request: CreateServerRequest | DeleteServerRequest, name: str) -> None:
    """Send a request, again and again under one request id while the controller is away, as a good client does."""

    def sent() -> bool:
        try:
            with api(dying.cloud) as client:
                client.unary(f"kumo.api.compute.v1.Servers/{method}", request, Server, doing=method)
        except Failure as failure:
            if failure.exit is Exit.UNAVAILABLE:
                dying.reaches(name, "ACTIVE")
                return False
            if failure.exit is Exit.NOT_FOUND and method == "DeleteServer":
                return True
            raise
        return True

    until(sent, f"{method} is answered", 60)


def create(dying: Dying, name: str, what: str) -> None:
    """Create a server and wait until it is ACTIVE, with one domain for it and not two."""
    request = CreateServerRequest(parent="projects/default", server_id=name, request_id=str(uuid.uuid4()))
    request.server.spec.flavor, request.server.spec.image = "flavors/flow", "projects/default/images/stub"
    request.server.spec.nics.add(network="projects/default/networks/sky")
    insist(dying, "CreateServer", request, name)
    until(lambda: dying.reaches(name, "ACTIVE"), f"{name} is ACTIVE after a death {what}: {dying.steps()}", 60)
    assert sum(dying.cloud.domains().values()) == RUNNING


def delete(dying: Dying, name: str, what: str) -> None:
    insist(dying, "DeleteServer", DeleteServerRequest(name=f"projects/default/servers/{name}"), name)
    until(lambda: dying.reaches(name, "GONE"), f"{name} is gone after a death {what}: {dying.steps()}", 60)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("when", "stride"), [("before", 1), ("after", 4)])
def test_a_server_becomes_active_and_goes_whatever_step_the_controller_dies_at(dying: Dying, when: str, stride: int) -> None:
    """Just after a step, the world is as it is just before the next one, but for steps side by side: so each run takes some of them.

    tests/controller/cell/test_crash.py does both at every step of the cell, on the agents' fakes.
    """
    first = random.randrange(stride)
    dies = {create: True, delete: True}
    for index in range(first, MOST_STEPS, stride):
        for act in (create, delete):
            if dies[act]:
                dying.plan(index, when)
            act(dying, f"crash-{when}-{index}", f"{when} step {index}")
            # Once a death has not come, the work takes no more steps than that.
            dies[act] = dies[act] and dying.has_struck()
        if index % LOOKED_AT == 0 or not any(dies.values()):
            assert_nothing_left(dying.cloud, dying.before)
        if not any(dies.values()):
            assert index > 8, "a create and a delete take more steps than that: the deaths were not where they should be"
            return
    raise AssertionError(f"a create or a delete took more than {MOST_STEPS} steps")
