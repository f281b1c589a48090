"""Fills a region that serves: pool, host, flavors, an image, a network, and a server `hello`, followed until its guest is ready.

Each step looks whether it has been done, so an interrupted run goes on. What a user has deleted since the first run stays deleted.
"""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.failure import Exit, Failure
from cli.nouns import NOUNS, Noun
from cli.read import get
from cli.session import Session, message_of
from cli.upload import upload_file
from cli.wait import follow
from deploy.control import wait_for
from deploy.image import build
from deploy.layout import Lab, Port, Storage
from deploy.steps import Steps
from kumo.api.compute.v1.flavor_pb2 import Flavor
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.subnet_pb2 import Subnet

IMAGE = "kt"
NETWORK = "blue"
CIDR = "10.0.0.0/24"
SERVER = "hello"
FLAVORS = {"tiny": (1, 128, 1), "small": (1, 512, 4), "medium": (2, 2048, 20)}  # virtual CPUs, MiB of memory, GiB of disk
WAIT_S = 300.0


def open_session(lab: Lab) -> Session:
    """Return a session of the CLI with this lab, whatever the user's own contexts say."""
    for name in ("KUMO_CONTEXT", "KUMO_ADDRESS", "KUMO_CA", "KUMO_PROJECT", "KUMO_SERVER_NAME"):
        os.environ.pop(name, None)
    os.environ["KUMO_CONFIG"] = str(lab.cli / "context.yaml")
    return Session()


def serves(session: Session) -> bool:
    """Ask for something that needs the region's leader and its store."""
    try:
        get(session, NOUNS["flavor"], "flavors/tiny")
    except Failure as failure:
        return failure.exit is Exit.NOT_FOUND
    return True


def _create(session: Session, noun: Noun, own_id: str, wanted: Any) -> bool:
    """Create a resource unless there is one of that name; return whether it is new."""
    name = session.full_name(noun, own_id)
    if _exists(session, noun, name):
        return False
    fields = {f"{noun.singular}_id": own_id, noun.singular: wanted, "request_id": str(uuid.uuid4())}
    if noun.in_project:
        fields["parent"] = session.client.parent
    request = message_of(noun, f"Create{noun.message}Request")(**fields)
    session.client.unary(noun.method("Create"), request, message_of(noun, noun.message), doing=f'create {noun.singular} "{own_id}"')
    return True


def _exists(session: Session, noun: Noun, name: str) -> bool:
    try:
        get(session, noun, name)
    except Failure as failure:
        if failure.exit is Exit.NOT_FOUND:
            return False
        raise
    return True


def pool_of(lab: Lab) -> Pool.Spec:
    """Return the pool that a lab's volumes and images lie in."""
    if lab.storage is Storage.FILE:
        return Pool.Spec(driver=Pool.FILE, hosts=[lab.host], default=True)
    return Pool.Spec(driver=Pool.RBD, volume_pool="volumes", image_pool="images", default=True)


def register(session: Session, pool: Pool.Spec, hosts: Mapping[str, Host.Spec]) -> None:
    """Tell the region of its hosts, its pool and the sizes of servers: what an operator does once."""
    for name, spec in hosts.items():
        add_host(session, name, spec)
    # A pool of files names its host.
    _create(session, NOUNS["pool"], "default", Pool(spec=pool))
    for name, (vcpus, memory_mib, disk_gib) in FLAVORS.items():
        _create(session, NOUNS["flavor"], name, Flavor(spec=Flavor.Spec(vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib)))


def host_of(lab: Lab) -> Host.Spec:
    """Return what is to be said of a lab's host."""
    return Host.Spec(
        cell=lab.cell,
        agent_address=lab.address(Port.AGENT),
        tunnel_address=lab.addresses.tunnel,
        storage_address=lab.addresses.storage,
        migration_address=lab.addresses.migration,
    )


def add_host(session: Session, name: str, spec: Host.Spec) -> None:
    _create(session, NOUNS["host"], name, Host(spec=spec))


def bring_image(session: Session, file: Path, form: "Image.Format.ValueType" = Image.QCOW2) -> None:
    noun, name = NOUNS["image"], session.full_name(NOUNS["image"], IMAGE)
    _create(session, noun, IMAGE, Image(spec=Image.Spec(format=form, size_bytes=file.stat().st_size)))
    if get(session, noun, name).status.state in (Image.STATE_UNSPECIFIED, Image.PENDING, Image.UPLOADING):
        upload_file(session, noun, name, file)
    follow(session, noun, name, "settled", WAIT_S)


def make_network(session: Session) -> None:
    _create(session, NOUNS["network"], NETWORK, Network(spec=Network.Spec()))
    network = session.full_name(NOUNS["network"], NETWORK)
    _create(session, NOUNS["subnet"], NETWORK, Subnet(spec=Subnet.Spec(network=network, cidr=CIDR)))


def start_server(session: Session) -> None:
    spec = Server.Spec(
        flavor=session.full_name(NOUNS["flavor"], "tiny"),
        image=session.full_name(NOUNS["image"], IMAGE),
        nics=[Server.Nic(network=session.full_name(NOUNS["network"], NETWORK))],
    )
    _create(session, NOUNS["server"], SERVER, Server(spec=spec))


def _runs_since(session: Session, name: str, moment: int) -> bool:
    """Whether the server's process was started after `moment`: what was reported before a power failure is still there after it."""
    return bool(get(session, NOUNS["server"], name).status.start_time.ToSeconds() >= moment)


def run(lab: Lab, steps: Steps, booted: int) -> None:
    """Do all of it on the first run; later, follow `hello` if it is still there and meant to run. Raises Failure.

    `booted` is when the host was started, in seconds since the epoch.
    """
    session = open_session(lab)
    done = lab.state / "hello-was-made"
    name = session.full_name(NOUNS["server"], SERVER)
    try:
        with steps.step("pool, host, flavors"):
            register(session, pool_of(lab), {lab.host: host_of(lab)})
        if not done.exists():
            with steps.step(f"image {IMAGE}"):
                bring_image(session, build.ensure()[0])
            with steps.step(f"network {NETWORK}"):
                make_network(session)
            start_server(session)
            booted = 0
        elif not _exists(session, NOUNS["server"], name) or get(session, NOUNS["server"], name).spec.power != Server.RUNNING:
            return
        with steps.step(f"server {SERVER}"):
            if booted:
                wait_for(f"server {SERVER} to be started", lambda: _runs_since(session, name, booted), WAIT_S, pause_s=0.2)
            follow(session, NOUNS["server"], name, "ready", WAIT_S)
        done.touch()
    finally:
        session.close()
