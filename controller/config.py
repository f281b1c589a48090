"""What starts a controller, as read from one TOML file; what may change while it runs lies in the store and not here.

Each plane has its own listener, certificates and store, also when one process runs both.
"""

import tomllib
from pathlib import Path

import msgspec

from kumo.tls import TlsFiles


class Plane(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What both planes need: `listen` is address:port, `store` are etcd's endpoints as address:port."""

    listen: str
    store: tuple[str, ...]
    # Accept an etcd that is older than what Kumo asks for, with a warning.
    lab: bool = False
    # How long a leader may be silent before another takes over.
    lease_s: int = 4


class RegionConfig(Plane, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The region's plane. `cells` names, for each cell, its controllers: the host as in the certificate, and address:port."""

    cells: dict[str, dict[str, str]]


class CellConfig(Plane, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The plane of one cell. `advertise` is what the region dials; empty means `listen`."""

    name: str
    advertise: str = ""
    # What the tunnels between hosts carry, in bytes of IP; a tenant's network has 50 less.
    underlay_mtu: int = 1500


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole process. A plane whose section is missing does not run here."""

    # The name of the region, and of the host this runs on, as the certificates have them.
    region: str
    host: str
    # Holds ca.crt, etcd-ca.crt and, for each plane that runs here, PLANE.crt, PLANE.key, etcd-PLANE.crt and etcd-PLANE.key,
    # where PLANE is region or cell.
    tls: Path
    metrics: str
    log_level: str = "INFO"
    region_plane: RegionConfig | None = None
    cell_plane: CellConfig | None = None

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


def load(path: Path) -> Config:
    """Raises msgspec.ValidationError, with the path of the offending key, for what is unknown, missing or of another type."""
    return msgspec.convert(tomllib.loads(path.read_text()), type=Config, dec_hook=_decode)


def _decode(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no {kind.__name__} can be made of {value!r}")
