"""Wires a lab's nodes to its switch: a bridge for each network in a namespace of its own, a pair of devices for each node and network.

The node's end goes with the node's network namespace, as a network card goes with its machine; so a node is wired at each boot. A cable
that was pulled stays out over boots, until somebody puts it back.
"""

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from deploy import control
from deploy.files import write
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
    """Make the bridges that are not there yet."""
    pid = control.init_pid(switch)
    known = _devices(pid)
    bridges = [f"br-{network[:4]}" for network in networks]
    lines = [f"link add {bridge} mtu {MTU} type bridge" for bridge in bridges if bridge not in known]
    _ip(pid, [*lines, *(f"link set {bridge} up" for bridge in bridges)])


def connect(shape: Shape, name: str) -> None:
    """Give a node that has just booted its devices and addresses."""
    node, switch, pid = shape.node(name), control.init_pid(shape.switch), control.init_pid(shape.node(name))
    _forget(switch, [_port(name, network) for network in shape.links])
    lines, out = [], pulled(shape, name)
    for network in shape.links:
        port = _port(name, network)
        lines += [
            f"link add {port} mtu {MTU} type veth peer name {network} address {shape.card(name, network)} mtu {MTU} netns {pid}",
            f"link set {port} master br-{network[:4]} {'down' if network in out else 'up'}",
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
    """Pull a node's cables out of the switch, or put them back; a node that is off has them so at its next boot.

    Raises ValueError for a network that the lab does not have.
    """
    chosen = set(networks)
    if unknown := chosen - set(shape.links):
        raise ValueError(f"there is no network {min(unknown)}: each node is on {', '.join(shape.links)}")
    before = set(pulled(shape, name))
    write(_record(shape, name), "\n".join(sorted(before - chosen if up else before | chosen)))
    pid, state = control.init_pid(shape.switch), "up" if up else "down"
    ports = {_port(name, network) for network in chosen} & _devices(pid)
    _ip(pid, [f"link set {port} {state}" for port in ports])


def pulled(shape: Shape, name: str) -> list[str]:
    """Return the networks that a node's cables are out of."""
    record = _record(shape, name)
    out = record.read_text().split() if record.exists() else []
    return [network for network in shape.links if network in out]


def _record(shape: Shape, name: str) -> Path:
    return shape.node(name).state / "cables-out"


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


def _devices(pid: int) -> set[str]:
    return {link["ifname"] for link in json.loads(_run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json", "link"], ""))}


def _ip(pid: int, lines: Iterable[str]) -> None:
    _run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: list[str], text: str) -> str:
    """Return what the program printed. Raises RuntimeError with what it said of its failure."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr.strip()}")
    return done.stdout
