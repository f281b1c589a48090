"""Says which nodes a lab of several hosts has, their addresses and roles, and draws them. Pure but for the file that it is kept in.

`c1` and `c2` are controllers, each with a process for the region's plane and one for the cell's; `c1` has etcd and Ceph as well. `h1`,
`h2` and so on are hosts. `underlay` is none of them: the switch that they hang on.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from deploy.files import write
from deploy.layout import DEFAULT_PORT_BASE, Addresses, Lab, Port, Role

FORMAT = 1
CONTROLLERS = ("c1", "c2")
PLANES = ("management", "tunnel", "storage", "migration")
_HOST = re.compile(r"h([1-9]\d{0,2})")
_FIRST_HOST, _MOST_HOSTS = 50, 200
_ROLES = {
    "c1": frozenset({Role.STORE, Role.CEPH, Role.CONTROLLER}),
    "c2": frozenset({Role.CONTROLLER}),
}
_WORDS = {
    Role.STORE: "etcd",
    Role.CEPH: "Ceph (monitor, manager, OSD)",
    Role.CONTROLLER: "controller of the region, controller of the cell",
    Role.HOST: "libvirt, agent, guest responder",
}

Underlay = Literal["ipv4", "ipv6"]


@dataclass(frozen=True)
class Shape:
    """A lab of several hosts. With one plane network, each node has one address for all planes."""

    state: Path
    hosts: tuple[str, ...]
    underlay: Underlay = "ipv4"
    networks: int = 1
    foreign_firewall: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError that says what cannot be."""
        for host in self.hosts:
            number_of(host)
        if len(set(self.hosts)) != len(self.hosts):
            raise ValueError(f"the hosts {', '.join(self.hosts)} are not all different")
        if self.networks not in (1, len(PLANES)):
            raise ValueError(f"{self.networks} plane networks: there is one for all planes, or {len(PLANES)}")

    @property
    def nodes(self) -> tuple[str, ...]:
        return (*CONTROLLERS, *self.hosts)

    @property
    def links(self) -> tuple[str, ...]:
        """The networks that each node is on, by the names of its devices."""
        return PLANES[: self.networks]

    def node(self, name: str) -> Lab:
        """Return where a node's things lie and what it is."""
        return Lab(
            state=self.state / "nodes" / name,
            port_base=DEFAULT_PORT_BASE,
            host=name,
            addresses=self.addresses(name),
            roles=_ROLES.get(name, frozenset({Role.HOST})),
            common=self.state,
        )

    def card(self, name: str, network: str) -> str:
        """Return the link address of a node's device. It is the same at each boot: others remember it."""
        return f"02:4b:75:{PLANES.index(network) + 1:02x}:00:{self._number(name):02x}"

    def _number(self, name: str) -> int:
        return 11 + CONTROLLERS.index(name) if name in CONTROLLERS else _FIRST_HOST + number_of(name)

    def addresses(self, name: str) -> Addresses:
        number = self._number(name)
        # The management network serves planes that have none of their own.
        return Addresses(*(self._address(plane if plane in self.links else self.links[0], number) for plane in PLANES))

    def _address(self, plane: str, number: int) -> str:
        index = PLANES.index(plane)
        return f"10.{90 + index}.0.{number}" if self.underlay == "ipv4" else f"fd4b:{index + 1}::{number}"

    @property
    def prefix_length(self) -> int:
        return 24 if self.underlay == "ipv4" else 64

    @property
    def whole(self) -> Lab:
        """Where what belongs to no node lies: authorities, the copy of the program, the context of the CLI."""
        return Lab(state=self.state, host="lab", roles=frozenset())

    @property
    def switch(self) -> Lab:
        """The node that only holds the bridges."""
        return Lab(state=self.state / "nodes" / "underlay", host="underlay", roles=frozenset(), common=self.state)

    def with_hosts(self, hosts: Iterable[str]) -> "Shape":
        return replace(self, hosts=tuple(sorted(hosts, key=number_of)))

    def save(self) -> None:
        kept = asdict(self) | {"format": FORMAT, "state": None}
        write(self.state / "hosts.json", json.dumps(kept) + "\n")


def number_of(host: str) -> int:
    """Return n of `h<n>`. Raises ValueError for another name."""
    found = _HOST.fullmatch(host)
    if found is None or int(found[1]) > _MOST_HOSTS:
        raise ValueError(f"a host of a lab is called h1 to h{_MOST_HOSTS}, not {host!r}")
    return int(found[1])


def load(state: Path) -> Shape | None:
    """Return the lab that lives in `state`, None if there is none. Raises ValueError for one that a newer Kumo made."""
    try:
        kept = json.loads((state / "hosts.json").read_text())
    except FileNotFoundError:
        return None
    if kept.pop("format") > FORMAT:
        raise ValueError(f"{state} was made by a newer Kumo: use that")
    kept["state"], kept["hosts"] = state, tuple(kept["hosts"])
    return Shape(**kept)


def picture(shape: Shape, states: dict[str, str]) -> str:
    """Return the lab as text: each node with its state, what runs on it and its addresses, hanging on its networks."""
    kind = "one network for all planes" if shape.networks == 1 else f"{shape.networks} networks, one a plane"
    lines = [f"underlay: {kind}, {'IPv4' if shape.underlay == 'ipv4' else 'IPv6'}"]
    for name in shape.nodes:
        node = shape.node(name)
        lines.append(f" ├─ {name:4} {states.get(name, ''):9} {'; '.join(_WORDS[role] for role in Role if role in node.roles)}")
        shown = {plane: getattr(node.addresses, plane) for plane in shape.links}
        lines.append(" │       " + "  ".join(f"{'address' if shape.networks == 1 else plane} {one}" for plane, one in shown.items()))
    ports = {"the region's API": Port.API, "cell": Port.CELL, "agents": Port.AGENT, "etcd": Port.ETCD_CLIENT, "tunnels (UDP)": Port.TUNNEL}
    lines.append(" ports: " + ", ".join(f"{what} {DEFAULT_PORT_BASE + port}" for what, port in ports.items()))
    return "\n".join(lines)
