"""Wires a lab's nodes to its switch: a bridge for each network in a namespace of its own, a pair of devices for each node and network.

The node's end goes with the node's network namespace, as a network card goes with its machine; so a node is wired at each boot.
"""

import subprocess
import time
from collections.abc import Iterable

from deploy import control
from deploy.lab.shape import Shape
from deploy.layout import Lab

MTU = 1500
FOREIGN_FIREWALL = """
table ip filter {
    chain DOCKER-USER { return; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
}
table inet ufw {
    chain forward { type filter hook forward priority filter; policy drop; ct state established accept; }
}
table bridge strict {
    chain forward { type filter hook forward priority filter; policy drop; }
}
"""


def begin(switch: Lab, networks: Iterable[str]) -> None:
    """Make the bridges."""
    lines = [f"link add br-{network[:4]} mtu {MTU} type bridge" for network in networks]
    lines += [f"link set br-{network[:4]} up" for network in networks]
    _ip(control.init_pid(switch), lines)


def connect(shape: Shape, name: str) -> None:
    """Give a node that has just booted its devices and addresses."""
    node, switch, pid = shape.node(name), control.init_pid(shape.switch), control.init_pid(shape.node(name))
    _forget(switch, [_port(name, network) for network in shape.links])
    lines = []
    for network in shape.links:
        port = _port(name, network)
        lines += [
            f"link add {port} mtu {MTU} type veth peer name {network} mtu {MTU} netns {pid}",
            f"link set {port} master br-{network[:4]} up",
        ]
    _ip(switch, lines)
    inside = ["link set lo up"]
    for network in shape.links:
        address = getattr(node.addresses, network)
        inside += [f"addr add {address}/{shape.prefix_length} dev {network}{' nodad' if ':' in address else ''}", f"link set {network} up"]
    _ip(pid, inside)
    if shape.foreign_firewall:
        _run(["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "-f", "-"], FOREIGN_FIREWALL)


def set_links(shape: Shape, name: str, networks: Iterable[str], *, up: bool) -> None:
    """Pull a node's cables out of the switch, or put them back."""
    state = "up" if up else "down"
    _ip(control.init_pid(shape.switch), [f"link set {_port(name, network)} {state}" for network in networks])


def _port(name: str, network: str) -> str:
    return f"{name}-{network[:4]}"


def _forget(switch: int, ports: Iterable[str]) -> None:
    """Remove what is left of a former boot: the kernel frees the devices of a namespace that ended when it has time."""
    for port in ports:
        command = ["nsenter", f"--net=/proc/{switch}/ns/net", "ip", "link", "delete", port]
        for _ in range(50):
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            if done.returncode and "Cannot find device" in done.stderr:
                break
            time.sleep(0.02)


def _ip(pid: int, lines: Iterable[str]) -> None:
    _run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: list[str], text: str) -> None:
    """Raises RuntimeError with what the program said."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr.strip()}")
