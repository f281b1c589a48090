"""A lab of several hosts comes up, changes, and goes. Each call may be repeated after any interruption.

Whoever calls these is on the network of the lab's first controller, or will be: a process goes there once and stays (enter()).
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cli.failure import Exit, Failure
from cli.nouns import NOUNS, Noun
from cli.read import get
from cli.session import Session, message_of
from deploy import base, ceph, control, down, hello, namespace, pki, processes, program
from deploy.control import wait_for
from deploy.etcd_binary import Etcd
from deploy.image import build
from deploy.lab import node as nodes
from deploy.lab import underlay
from deploy.lab.shape import CONTROLLERS, Shape
from deploy.layout import Lab
from deploy.steps import Steps
from kumo.api.fleet.v1.host_pb2 import Host

START_S = 90.0
FIRST = CONTROLLERS[0]
RUNNING = "running"


def up(shape: Shape, found: Etcd, steps: Steps) -> None:
    """Bring everything up that is not, until the region serves and every host is UP."""
    with steps.step("certificates, configuration, copy of the program"):
        shape.state.chmod(0o755)
        _complete(shape).unlink(missing_ok=True)
        base.load_modules()
        for name in shape.nodes:
            nodes.prepare(shape, name, found)
        base.make_directories(shape.switch)
        pki.prepare(shape.whole)
        program.refresh(shape.whole)
        processes.write_context(shape.whole)
        base.make_targets(shape.state)
    first = shape.node(FIRST)
    with steps.step("underlay"):
        nodes.boot_switch(shape)
        for name in shape.nodes:
            if out := underlay.pulled(shape, name):
                underlay.set_links(shape, name, out, up=True)
    down_before = [name for name in shape.nodes if not nodes.is_booted(shape.node(name))]
    if FIRST in down_before:
        nodes.boot(shape, FIRST, base.services(first))
    enter(shape)
    _boot_all(shape, [name for name in down_before if name != FIRST], steps)
    base.wait_until_serving(first, steps, booted=FIRST in down_before)
    with steps.step("keys"):
        for name in shape.nodes:
            nodes.hand_out_keys(shape, name)
    for name in shape.nodes:
        nodes.start(shape.node(name), nodes.services(shape.node(name)))
    with session(shape) as own:
        with steps.step("region's API"):
            wait_for("the region's API", lambda: hello.serves(own), START_S)
        with steps.step("hosts"):
            hello.register(own, hello.pool_of(shape.node(FIRST)), {name: hello.host_of(shape.node(name)) for name in shape.hosts})
            wait_until_up(own, shape.hosts)
        made = shape.state / "image-was-made"
        if not made.exists():
            with steps.step("image kt, network blue"):
                hello.bring_image(own, build.ensure()[0])
                hello.make_network(own)
            made.touch()
    _complete(shape).touch()


def is_complete(shape: Shape) -> bool:
    """Whether the last change of the lab came to its end, and all of it runs."""
    return _complete(shape).exists() and all(state == RUNNING for state in states(shape).values())


def _complete(shape: Shape) -> Path:
    return shape.state / "complete"


@contextlib.contextmanager
def _change(shape: Shape) -> Iterator[None]:
    """Have a lab that was complete be so again only when the change has come to its end."""
    was = _complete(shape).exists()
    _complete(shape).unlink(missing_ok=True)
    yield
    if was:
        _complete(shape).touch()


def _boot_all(shape: Shape, names: list[str], steps: Steps) -> None:
    """Boot nodes side by side. libvirt asks QEMU what it can do once, for all hosts."""
    if not names:
        return
    with steps.step(f"nodes {', '.join(names)}"), ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: nodes.boot(shape, name, base.services(shape.node(name))), names))


def enter(shape: Shape) -> None:
    """Move this process onto the lab's network, at the first controller that runs. Raises control.Down if none does."""
    running = next((name for name in CONTROLLERS if control.is_up(shape.node(name))), FIRST)
    namespace.enter_network(control.init_pid(shape.node(running)))


@contextlib.contextmanager
def session(shape: Shape) -> Iterator[Session]:
    own = hello.open_session(shape.whole)
    try:
        yield own
    finally:
        own.close()


def wait_until_up(own: Session, hosts: Iterable[str]) -> None:
    noun = NOUNS["host"]
    for name in hosts:
        wait_for(f"host {name}", partial(_is_up, own, noun, name), START_S, pause_s=0.1)


def _is_up(own: Session, noun: Noun, name: str) -> bool:
    try:
        return bool(get(own, noun, own.full_name(noun, name)).status.state == Host.UP)
    except Failure as failure:
        if failure.exit in (Exit.NOT_FOUND, Exit.UNAVAILABLE):
            return False
        raise


def join(shape: Shape, name: str, found: Etcd, steps: Steps) -> Shape:
    """Add a host while the lab runs, and return the lab with it. Call enter() before."""
    larger = shape.with_hosts({*shape.hosts, name})
    node = larger.node(name)
    with steps.step(f"host {name}"), _change(shape):
        nodes.prepare(larger, name, found)
        larger.save()
        nodes.hand_out_keys(larger, name)
        if not nodes.is_booted(node):
            nodes.boot(larger, name, nodes.services(node))
        with session(larger) as own:
            hello.add_host(own, name, hello.host_of(node))
            wait_until_up(own, [name])
    return larger


def leave(shape: Shape, name: str, steps: Steps) -> Shape:
    """Take a host out, with its key and all of its state, and return the lab without it. Raises Failure while servers are on it."""
    node, smaller = shape.node(name), shape.with_hosts(set(shape.hosts) - {name})
    with steps.step(f"host {name}"), _change(shape):
        with session(shape) as own:
            _delete_host(own, name)
        nodes.shut_down(node)
        with ceph.admin(shape.node(FIRST)) as cluster:
            ceph.take_key(cluster, node)
        shutil.rmtree(node.state)
        smaller.save()
    return smaller


def _delete_host(own: Session, name: str) -> None:
    noun = NOUNS["host"]
    request = message_of(noun, "DeleteHostRequest")(name=own.full_name(noun, name))
    try:
        own.client.unary(noun.method("Delete"), request, message_of(noun, noun.message), doing=f'delete host "{name}"')
    except Failure as failure:
        if failure.exit is not Exit.NOT_FOUND:
            raise


def shut_down(shape: Shape, steps: Steps) -> None:
    """Stop hosts first, then controllers, then the underlay; all state is kept."""
    with steps.step("hosts"), ThreadPoolExecutor(max(1, len(shape.hosts))) as pool:
        list(pool.map(lambda name: nodes.shut_down(shape.node(name)), shape.hosts))
    with steps.step("controllers, etcd, Ceph"):
        for name in reversed(CONTROLLERS):
            nodes.shut_down(shape.node(name))
    with steps.step("underlay"):
        nodes.shut_down(shape.switch)


def states(shape: Shape) -> dict[str, str]:
    """Return what is so of each node: "off", "running", which of its processes do not run, which of its cables are out."""
    found = {}
    for name in shape.nodes:
        found[name] = _running_of(shape.node(name))
        if out := underlay.pulled(shape, name):
            found[name] += ", cut off" if len(out) == len(shape.links) else f", cut off from {', '.join(out)}"
    return found


def _running_of(node: Lab) -> str:
    try:
        services = control.ask(node, "status")["services"]
    except control.Down:
        return "off"
    away = [one["name"] for one in services if one["state"] != "running"]
    return f"without {', '.join(away)}" if away else RUNNING if services else "half booted"


def purge(shape: Shape, steps: Steps) -> None:
    """Leave nothing of the lab: nobody waits for what is thrown away."""
    with steps.step("nodes"):
        for one in (*map(shape.node, shape.nodes), shape.switch):
            if control.is_up(one):
                nodes.cut_power(one)
    with steps.step("state directory"):
        down.remove(shape.state)
