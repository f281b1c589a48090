"""The controller is killed before and after every commit and call of a create and of a delete; nothing is lost, doubled or left."""

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.client import Client
from cli.contexts import load
from cli.failure import Exit, Failure
from deploy import control, processes
from deploy.image import stub
from deploy.layout import User
from kumo.api.compute.v1.server_pb2 import CreateServerRequest, DeleteServerRequest, Server
from tests.flows.cloud import Cloud, World, assert_nothing_left, until

SERVICE = processes.CONTROLLER
# More steps than a create or a delete takes; the walk ends by itself when a plan has not struck.
MOST_STEPS = 60
# `hello`, and the one under test.
RUNNING = 2


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


def insist(cloud: Cloud, method: str, request: CreateServerRequest | DeleteServerRequest) -> None:
    """Send a request, again and again under one request id while the controller is away, as a good client does."""

    def sent() -> bool:
        client = Client(load(cloud.lab.cli / "context.yaml").known["local"], timeout_s=5)
        try:
            client.unary(f"kumo.api.compute.v1.Servers/{method}", request, Server, doing=method)
        except Failure as failure:
            if failure.exit is Exit.UNAVAILABLE:
                return False
            if failure.exit is Exit.NOT_FOUND and method == "DeleteServer":
                return True
            raise
        finally:
            client.close()
        return True

    until(sent, f"{method} is answered", 60)


def create_and_delete(dying: Dying, name: str, index: int, when: str) -> tuple[bool, bool]:
    """Create and delete one server with a death in each; return whether the deaths came."""
    cloud = dying.cloud
    request = CreateServerRequest(parent="projects/default", server_id=name, request_id=str(uuid.uuid4()))
    request.server.spec.flavor, request.server.spec.image = "flavors/flow", "projects/default/images/stub"
    request.server.spec.nics.add(network="projects/default/networks/sky")
    dying.plan(index, when)
    insist(cloud, "CreateServer", request)
    until(lambda: cloud.state_of("server", name) == "ACTIVE", f"{name} is ACTIVE after a death {when} step {index}: {dying.steps()}", 60)
    created = dying.has_struck()
    assert sum(cloud.domains().values()) == RUNNING, "one domain for each server that runs, and not two"
    dying.plan(index, when)
    insist(cloud, "DeleteServer", DeleteServerRequest(name=f"projects/default/servers/{name}"))
    until(lambda: cloud.state_of("server", name) == "GONE", f"{name} is gone after a death {when} step {index}: {dying.steps()}", 60)
    deleted = dying.has_struck()
    assert_nothing_left(cloud, dying.before)
    return created, deleted


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_server_becomes_active_and_goes_whatever_step_the_controller_dies_at(dying: Dying, when: str) -> None:
    for index in range(MOST_STEPS):
        if not any(create_and_delete(dying, f"crash-{when}-{index}", index, when)):
            assert index > 4, "a create takes more steps than that: the deaths were not where they should be"
            return
    raise AssertionError(f"a create or a delete took more than {MOST_STEPS} steps")
