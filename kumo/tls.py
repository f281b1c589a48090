"""Loads certificates from files for gRPC, and loads them again when the files change; it makes none (kumo.authority does)."""

import asyncio
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from prometheus_client import Gauge

from kumo.authority import Pem
from kumo.clock import Clock, SystemClock
from kumo.errors import FailedPrecondition
from kumo.log import get_logger

log = get_logger(__name__)

EXPIRY = Gauge("kumo_certificate_expiry_timestamp_seconds", "When the certificate in use ends, as Unix time.", ["file"])


@dataclass(frozen=True)
class TlsFiles:
    """Where a process keeps who it trusts and who it is; `cert` holds the authorities below the root as well."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def in_folder(cls, folder: Path, name: str) -> "TlsFiles":
        """Return `folder`/ca.crt, `name`.crt and `name`.key."""
        return cls(folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key")

    def read(self) -> "Credentials":
        """Raises FailedPrecondition, naming the file, if one cannot be read or is no certificate."""
        return Credentials(_certificate(self.ca), Pem(_certificate(self.cert), _read(self.key)))

    def write(self, ca_pem: bytes, pem: Pem) -> None:
        """Write all three so that a reader finds each old or new, never half; only the owner may read the key."""
        for path, data, mode in ((self.ca, ca_pem, 0o644), (self.key, pem.key, 0o600), (self.cert, pem.cert, 0o644)):
            _write(path, data, mode)


@dataclass(frozen=True)
class Credentials:
    """What TlsFiles point to: the roots to trust, and one's own certificate and key."""

    roots: bytes
    own: Pem

    def for_channel(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.roots, self.own.key, self.own.cert)

    def for_server(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.own.key, self.own.cert)], self.roots)


class ServerTls:
    """The credentials of a listener; run() keeps them fresh. Open connections keep what they were opened with."""

    def __init__(self, files: TlsFiles, *, require_client: bool = True, clock: Clock | None = None, check_every_s: float = 30.0) -> None:
        """Raises FailedPrecondition if the files cannot be loaded now."""
        self._files = files
        self.require_client = require_client
        self._clock = clock or SystemClock()
        self._check_every_s = check_every_s
        self._lock = threading.Lock()
        self._pending: grpc.ServerCertificateConfiguration | None = None
        self._seen = self._stamp()
        self._initial = files.read()
        self._note_expiry(self._initial)

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self._initial.for_server(),
            self._fetch,  # type: ignore[arg-type]  # the stub forgot that None means unchanged
            require_client_authentication=self.require_client,
        )

    async def run(self) -> None:
        """Look at the files now and then, for ever."""
        while True:
            await self._clock.sleep(self._check_every_s)
            await self.reload()

    async def reload(self) -> None:
        """Take what is in the files for connections from now on; what cannot be loaded is logged and changes nothing."""
        stamp = await asyncio.to_thread(self._stamp)
        if stamp == self._seen:
            return
        try:
            fresh = await asyncio.to_thread(self._files.read)
        except FailedPrecondition as error:
            log.error("certificate not reloaded", reason=error.reason, why=error.message, fix=error.fix)
            return
        self._seen = stamp
        with self._lock:
            self._pending = fresh.for_server()
        self._note_expiry(fresh)
        log.info("certificate reloaded", file=self._files.cert)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC on a thread of its own for each new connection; None means unchanged."""
        with self._lock:
            fresh, self._pending = self._pending, None
            return fresh

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        def of(path: Path) -> tuple[int, int]:
            try:
                found = path.stat()
            except OSError:
                return (0, 0)
            return (found.st_mtime_ns, found.st_ino)

        return tuple(of(path) for path in (self._files.ca, self._files.cert, self._files.key))

    def _note_expiry(self, credentials: Credentials) -> None:
        ends = x509.load_pem_x509_certificate(credentials.own.cert).not_valid_after_utc
        EXPIRY.labels(str(self._files.cert)).set(ends.timestamp())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(
            "CERTIFICATE_UNREADABLE",
            f"{path}: {error.strerror}",
            fix="have the certificates made, and readable by this process",
            file=str(path),
        ) from error


def _certificate(path: Path) -> bytes:
    data = _read(path)
    try:
        x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise FailedPrecondition(
            "CERTIFICATE_MALFORMED", f"{path} holds no certificate in PEM", fix="have the certificates made again", file=str(path)
        ) from error
    return data


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    fresh.rename(path)
