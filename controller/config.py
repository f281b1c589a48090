"""What starts a controller, as read from one TOML file; what may change while it runs lies in the store and not here.

Each plane has its own listener, certificates and store, also when one process runs both.
"""

from dataclasses import dataclass
from pathlib import Path

from kumo.tls import TlsFiles


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """The region's plane: `listen` is address:port, `store` are etcd's endpoints as address:port.

    `cells` names, for each cell, its controllers: the host as in the certificate, and address:port. `advertise` tells this controller
    from others where all listen on a loopback address; empty means `listen`.
    """

    listen: str
    store: list[str]
    cells: dict[str, dict[str, str]]
    advertise: str = ""
    # Take an etcd that is older than what Kumo asks for, with a warning.
    lab: bool = False


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """The plane of one cell; `advertise` is what the region dials, and empty means `listen`."""

    name: str
    listen: str
    store: list[str]
    advertise: str = ""
    lab: bool = False
    # What the tunnels between hosts carry, in bytes of IPv4, which is 20 less than that of the links where the tunnels are IPv6's; a
    # tenant's network has 50 less.
    underlay_mtu: int = 1500


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole process. A plane whose section is missing does not run here."""

    # The name of the region, and of the host this runs on, as the certificates have them.
    region: str
    host: str
    # Holds ca.crt, etcd-ca.crt and, for each plane that runs here, PLANE.crt, PLANE.key, etcd-PLANE.crt and etcd-PLANE.key,
    # where PLANE is region or cell.
    tls: Path
    # Where /metrics is served: address:port.
    metrics: str
    log_level: str = "INFO"
    region_plane: RegionConfig | None = None
    cell_plane: CellConfig | None = None
    # How long a leader may be silent before another one takes over.
    lease_s: int = 4
    # What etcd was started with (--quota-backend-bytes), to warn before it is full.
    store_quota_bytes: int = 8 << 30

    def plane_tls(self, plane: str) -> TlsFiles:
        """Return what this process presents in `plane`: "region" or "cell"."""
        return TlsFiles.in_folder(self.tls, plane)

    def store_tls(self, plane: str) -> TlsFiles:
        """Return what this process presents to the etcd of `plane`."""
        return TlsFiles(self.tls / "etcd-ca.crt", self.tls / f"etcd-{plane}.crt", self.tls / f"etcd-{plane}.key")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of address:port, where an IPv6 address may stand in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def region_prefix(region: str) -> str:
    return f"/kumo/region/{region}/"


def cell_prefix(cell: str) -> str:
    return f"/kumo/cell/{cell}/"
