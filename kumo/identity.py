"""Who a process is: the names its certificate carries, written and read in one place.

`spiffe://<cell>.<region>.kumo/<role>/<host>` says who it is, `<host>.<role>.<cell>.<region>.kumo` is what its dialler expects.
`region` stands for the cell in the region's own plane.
"""

import re
from dataclasses import dataclass

REGION_PLANE = "region"

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_URI = re.compile(rf"spiffe://({_LABEL})\.({_LABEL})\.kumo/({_LABEL})/({_LABEL})")


@dataclass(frozen=True)
class Identity:
    """One process in one plane; `cell` is "region" for the region's own plane."""

    cell: str
    region: str
    role: str
    host: str

    def __post_init__(self) -> None:
        for label in (self.cell, self.region, self.role, self.host):
            if re.fullmatch(_LABEL, label) is None:
                raise ValueError(f"{label!r} cannot stand in a certificate: lower-case letters, digits and hyphens, at most 63")

    @property
    def trust_domain(self) -> str:
        return trust_domain(self.cell, self.region)

    @property
    def uri(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.role}/{self.host}"

    @property
    def dns(self) -> str:
        return f"{self.host}.{self.role}.{self.trust_domain}"

    @classmethod
    def parse(cls, uri: str) -> "Identity | None":
        """Return who `uri` names, or None if it is not one of ours."""
        found = _URI.fullmatch(uri)
        return cls(*found.groups()) if found else None


def trust_domain(cell: str, region: str) -> str:
    return f"{cell}.{region}.kumo"
