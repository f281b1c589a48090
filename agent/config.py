"""What may stand in the configuration file of an agent (kumo.config reads it). What may change while it runs lies in the store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kumo.errors import InvalidArgument

Role = Literal["compute", "network", "storage"]
ROLES: tuple[Role, ...] = ("compute", "network", "storage")


@dataclass(frozen=True)
class ComputeConfig:
    """How servers run on the host. `driver` fake runs none, and needs no rights."""

    driver: Literal["libvirt", "fake"] = "libvirt"
    virt: Literal["auto", "kvm", "qemu"] = "auto"
    libvirt_uri: str = "qemu:///system"
    # Where libvirt keeps what ends with the boot, QEMU's pid files among them.
    libvirt_run: Path = Path("/run/libvirt")
    # Where libvirt keeps what QEMU had to say, a file a guest.
    libvirt_log: Path = Path("/var/log/libvirt")
    # Where virtlogd writes what serial consoles print.
    consoles: Path = Path("/var/log/libvirt/consoles")
    # What the host offers; 0: all that it has.
    vcpus: int = 0
    memory_mib: int = 0


@dataclass(frozen=True)
class NetworkConfig:
    """Where tenants' networks live. `driver` fake makes none, and needs no rights."""

    tunnel_address: str
    # Where guests' files lie, and the responder that answers from them listens.
    guest_files: Path
    responder: Path
    driver: Literal["kernel", "fake"] = "kernel"
    tunnel_port: int = 4789
    # Namespaces are pinned here: a file system that ends with the boot.
    namespaces: Path = Path("/run/kumo")
    # The group that may read guests' files.
    guest_gid: int = 0


@dataclass(frozen=True)
class StorageConfig:
    """Where volumes may lie: in Ceph, in a directory, or both. With neither there are those of the driver fake only."""

    ceph_conf: Path | None = None
    # As Ceph calls it: client.NAME.
    ceph_user: str = ""
    # Holds the pools of the driver file. It is never made: where it should be and is not, its disk is not mounted.
    directory: Path | None = None


@dataclass(frozen=True)
class Config:
    """A whole agent. `tls` holds ca.crt, cell.crt and cell.key; `state` is what the agent alone writes."""

    region: str
    cell: str
    host: str
    listen: str
    metrics: str
    tls: Path
    state: Path
    network: NetworkConfig
    compute: ComputeConfig = ComputeConfig()
    storage: StorageConfig = StorageConfig()
    roles: tuple[Role, ...] = ROLES
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        if "compute" in self.roles and not {"network", "storage"} <= set(self.roles):
            raise InvalidArgument(
                "ROLES_INCOMPLETE", "a host that plays compute needs network and storage for its servers", fix="name all three roles"
            )


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of address:port, where an IPv6 address may stand in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
