"""Says where everything of one lab lies: directories, addresses, ports, numeric users, names. Creates nothing.

A lab is one state directory and one port base. Two labs that differ in both share nothing on the machine. A lab of several hosts
(deploy/lab) is made of nodes, each of which is a lab with a state directory, addresses and roles of its own.
"""

import ipaddress
import json
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cached_property
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
CACHE = CHECKOUT / "build" / "cache"
DEFAULT_STATE = Path("/var/lib/kumo")
DEFAULT_PORT_BASE = 7400
PORT_COUNT = 60
FORMAT = 1
LOOPBACK = "127.0.0.1"


class Port(IntEnum):
    """Offsets from a lab's port base."""

    API = 0
    CELL = 1
    AGENT = 2
    CONTROLLER_METRICS = 3
    AGENT_METRICS = 4
    GUEST_METRICS = 5
    TUNNEL = 6  # UDP: VXLAN between this lab's hosts
    CELL_METRICS = 7  # where the two planes are two processes
    ETCD_CLIENT = 10
    ETCD_PEER = 11
    MON_V2 = 20
    MON_V1 = 21
    CEPH_FIRST = 30
    CEPH_LAST = 59


class User(IntEnum):
    """Numeric users, and groups of the same number. They have no entry in /etc/passwd, so nothing of theirs remains."""

    ROOT = 0
    ETCD = 64101
    CEPH = 64102
    CONTROLLER = 64103
    GUEST = 64104
    QEMU = 64105
    IMAGE = 64106


class Role(StrEnum):
    """What a node does."""

    STORE = "store"  # etcd
    CEPH = "ceph"
    CONTROLLER = "controller"
    HOST = "host"  # libvirt, agent, guest responder


class Storage(StrEnum):
    """What keeps volumes and images."""

    RBD = "rbd"
    FILE = "file"


@dataclass(frozen=True)
class Addresses:
    """One address for each plane, IPv4 or IPv6; they may be one and the same."""

    management: str = LOOPBACK
    tunnel: str = LOOPBACK
    storage: str = LOOPBACK
    migration: str = LOOPBACK


@dataclass(frozen=True)
class Lab:
    """One lab: a region `local` with one cell `a` and one host; or one node of several."""

    state: Path
    port_base: int = DEFAULT_PORT_BASE
    host: str = "h1"
    region: str = "local"
    cell: str = "a"
    addresses: Addresses = Addresses()
    roles: frozenset[Role] = frozenset(Role)
    storage: Storage = Storage.RBD
    # Holds what all nodes of a lab have in common; of its own where there is one.
    common: Path | None = None

    def port(self, port: Port) -> int:
        return self.port_base + port

    def address(self, port: Port) -> str:
        """Return address:port, in the plane that the listener belongs to. What anybody may ask without a certificate is on loopback."""
        match port:
            case Port.CELL | Port.AGENT | Port.ETCD_CLIENT | Port.ETCD_PEER:
                address = self.addresses.management
            case Port.MON_V1 | Port.MON_V2:
                address = self.addresses.storage
            case _:
                address = LOOPBACK
        return f"{bracketed(address)}:{self.port(port)}"

    @property
    def pki(self) -> Path:
        return (self.common or self.state) / "pki"

    @property
    def etcd(self) -> Path:
        return self.state / "etcd"

    @property
    def ceph(self) -> Path:
        return self.state / "ceph"

    @property
    def files(self) -> Path:
        """Where volumes and images lie that are files."""
        return self.state / "files"

    @property
    def libvirt(self) -> Path:
        return self.state / "libvirt"

    @property
    def agent(self) -> Path:
        return self.state / "agent"

    @property
    def controller(self) -> Path:
        return self.state / "controller"

    @property
    def guest(self) -> Path:
        return self.state / "guest"

    @property
    def cli(self) -> Path:
        return self.state / "cli"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def venv(self) -> Path:
        return (self.common or self.state) / "venv"

    @property
    def python(self) -> Path:
        """The interpreter that runs Kumo's processes: any user may read it and what it imports."""
        return self.venv / "bin" / "python"

    @property
    def socket(self) -> Path:
        """Where the supervisor listens. Whoever can connect knows that the lab runs."""
        return self.run / "supervisor.sock"

    @property
    def services(self) -> Path:
        return self.run / "services.json"

    @property
    def description(self) -> Path:
        return self.state / "lab.json"

    @cached_property
    def libvirt_uri(self) -> str:
        """What reaches this lab's libvirtd from outside its mount namespace."""
        return f"qemu:///system?socket={self.libvirt}/run/libvirt-sock"

    def save(self) -> None:
        """Write down what later commands need to find this lab by its state directory alone."""
        text = json.dumps({"format": FORMAT, "port_base": self.port_base, "host": self.host, "storage": self.storage})
        self.description.write_text(text + "\n")


def roles_with(storage: Storage) -> frozenset[Role]:
    """Return what the one node of a lab does: without RBD there is no Ceph."""
    return frozenset(Role) if storage is Storage.RBD else frozenset(Role) - {Role.CEPH}


def bracketed(address: str) -> str:
    """Return an address as it stands before a port."""
    return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address


def load(state: Path) -> Lab | None:
    """Return the lab that lives in `state`, or None if there is none. A newer format raises ValueError."""
    try:
        found = json.loads((state / "lab.json").read_text())
    except FileNotFoundError:
        return None
    if found["format"] > FORMAT:
        raise ValueError(f"{state} has format {found['format']}, this Kumo knows up to {FORMAT}: use the newer Kumo")
    # Labs of before there was a choice name none.
    storage = Storage(found.get("storage", Storage.RBD))
    return Lab(state=state, port_base=found["port_base"], host=found["host"], roles=roles_with(storage), storage=storage)
