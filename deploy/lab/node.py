"""One node of a lab: prepared, booted, shut down, cut off from power. Knows nothing of what the others do, but where they are."""

import os
import select
import signal

from deploy import base, ceph, control, down, pki, processes
from deploy.control import Service
from deploy.etcd_binary import Etcd
from deploy.lab import underlay
from deploy.lab.shape import CONTROLLERS, Shape
from deploy.layout import Lab, Port, Role
from deploy.steps import Steps

END_S = 60.0


def peers(shape: Shape) -> processes.Peers:
    cell = {name: shape.node(name).address(Port.CELL) for name in CONTROLLERS}
    return processes.Peers((shape.node(CONTROLLERS[0]).address(Port.ETCD_CLIENT),), cell)


def prepare(shape: Shape, name: str, found: Etcd) -> None:
    """Make a node's directories, certificates and configuration. Starts nothing."""
    node = shape.node(name)
    base.make_directories(node)
    pki.prepare(node)
    base.make_stores(node, found)
    if Role.HOST in node.roles:
        processes.prepare_host(node)
    if Role.CONTROLLER in node.roles:
        processes.prepare_planes(node, found, peers(shape))


def services(node: Lab) -> list[Service]:
    """Return everything that runs on a node that has its keys."""
    return [*base.services(node), *processes.node_services(node)]


def boot_switch(shape: Shape) -> None:
    """Start the node that the others hang on, or what of it is missing."""
    if not control.is_up(shape.switch):
        control.write_services(shape.switch, [])
        base.boot(shape.switch, "--network")
    underlay.begin(shape.switch, shape.links)


def is_booted(node: Lab) -> bool:
    """Whether a node runs and is wired: one whose boot was interrupted has an init that runs nothing yet."""
    try:
        return bool(control.ask(node, "status")["services"])
    except control.Down:
        return False


def boot(shape: Shape, name: str, wanted: list[Service]) -> None:
    """Start a node that is not booted, wire it, and have it start `wanted`: nothing of it runs before it has its addresses."""
    node = shape.node(name)
    if control.is_up(node):
        cut_power(node)
    control.write_services(node, [])
    base.boot(node, "--network")
    underlay.connect(shape, name)
    start(node, wanted)


def start(node: Lab, wanted: list[Service]) -> None:
    """Have exactly `wanted` run on a node that is up."""
    control.write_services(node, wanted)
    control.ask(node, "reload")


def hand_out_keys(shape: Shape, name: str) -> None:
    """Give a node its keys of Ceph. The caller must be on the network of the lab."""
    first = shape.node(CONTROLLERS[0])
    with ceph.admin(first) as cluster:
        ceph.hand_out_keys(first, cluster, shape.node(name))


def shut_down(node: Lab) -> None:
    """Stop a node in order: guests by their power button, then all the rest. One that does not run is fine."""
    if is_booted(node):
        down.stop(node, Steps(silent=True))
    elif control.is_up(node):
        cut_power(node)


def cut_power(node: Lab) -> None:
    """End everything on a node at once. Raises control.Down if it does not run."""
    handle = os.pidfd_open(control.init_pid(node))
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        if not select.select([handle], [], [], END_S)[0]:
            raise TimeoutError(f"the end of {node.host}: not within {END_S:.0f} s")
        control.wait_for(f"the end of {node.host}", lambda: not control.is_up(node), END_S)
    finally:
        os.close(handle)
