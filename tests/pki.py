"""Certificates for tests: one root, planes below it, and files for whoever is asked for."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kumo.authority import Authority, Pem, issue_for, new_plane, new_root
from kumo.identity import Identity
from kumo.tls import Credentials, ServerTls, TlsFiles


@dataclass
class Pki:
    """Makes what a test needs, when it needs it."""

    folder: Path
    region: str = "local"
    root: Authority = field(default_factory=lambda: new_root("Kumo test root", datetime.now(UTC)))
    planes: dict[str, Authority] = field(default_factory=dict)

    def plane(self, cell: str) -> Authority:
        if cell not in self.planes:
            self.planes[cell] = new_plane(self.root, cell, self.region, datetime.now(UTC))
        return self.planes[cell]

    def identity(self, cell: str, role: str, host: str = "h1") -> Identity:
        return Identity(cell, self.region, role, host)

    def pem(self, identity: Identity, *, signed_by: Authority | None = None, lifetime: timedelta = timedelta(hours=1)) -> Pem:
        return issue_for(signed_by or self.plane(identity.cell), identity, datetime.now(UTC), lifetime)

    def credentials(self, cell: str, role: str, host: str = "h1") -> Credentials:
        return Credentials(self.root.cert_pem, self.pem(self.identity(cell, role, host)))

    def files(self, cell: str, role: str, host: str = "h1") -> TlsFiles:
        files = TlsFiles.in_folder(self.folder, f"{role}.{cell}.{host}")
        files.write(self.root.cert_pem, self.pem(self.identity(cell, role, host)))
        return files

    def server_tls(self, cell: str, role: str, host: str = "h1", *, require_client: bool = True) -> ServerTls:
        return ServerTls(self.files(cell, role, host), require_client=require_client)
