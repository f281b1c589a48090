"""Makes the lab's certificate authorities and certificates, and renews what is past half its life. Talks to nobody.

One root for the region; an intermediate for the cell, which by critical name constraints can speak for nobody else; a CA
of etcd's own. Leaves carry one URI SAN (who it is) and one DNS SAN (whom to dial). Keys never leave their directory, except
for copies that belong to the process they name.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.files import make_directory, write
from deploy.layout import Lab, User

CA_DAYS = 3650
LEAF_DAYS = 365
BACKDATED = timedelta(minutes=5)


@dataclass(frozen=True)
class Authority:
    """A CA that can sign: its certificate, its key, and what a peer needs to reach the root from it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: bytes


@dataclass(frozen=True)
class Leaf:
    """What one certificate says, and where it goes."""

    path: Path
    common_name: str
    owner: int
    uri: str = ""
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not is_ca,  # libvirt refuses elliptic-curve certificates without it
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(path: Path, name: str, parent: Authority | None = None, domain: str = "") -> Authority:
    """Load the CA at `path`, or make it: self-signed, or signed by `parent` and held to `domain`."""
    certificate_path, key_path = path.with_suffix(".crt"), path.with_suffix(".key")
    if not certificate_path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, parent.certificate.subject if parent else _name(name), key, CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0 if parent else None), critical=True)
        builder = builder.add_extension(_usage(is_ca=True), critical=True)
        if domain:
            permitted = [x509.UniformResourceIdentifier(domain), x509.DNSName(f".{domain}")]
            excluded = [x509.IPAddress(ip_network(every)) for every in ("0.0.0.0/0", "::/0")]
            builder = builder.add_extension(x509.NameConstraints(permitted, excluded), critical=True)
        certificate = builder.sign(parent.key if parent else key, hashes.SHA256())
        write(key_path, _key_pem(key), mode=0o600)
        write(certificate_path, _pem(certificate))
    certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return Authority(certificate, loaded, _pem(certificate) if parent else b"")


def _is_current(path: Path) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    half = (certificate.not_valid_after_utc - certificate.not_valid_before_utc) / 2
    return datetime.now(UTC) < certificate.not_valid_before_utc + half


def _leaf(authority: Authority, leaf: Leaf) -> None:
    """Issue `leaf` with a new key, unless the present one is still in the first half of its life."""
    certificate_path, key_path = leaf.path.with_suffix(".crt"), leaf.path.with_suffix(".key")
    if key_path.exists() and _is_current(certificate_path):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(leaf.uri)] if leaf.uri else []
    names += [x509.DNSName(name) for name in leaf.dns]
    names += [x509.IPAddress(ip_address(address)) for address in leaf.addresses]
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(leaf.common_name, authority.certificate.subject, key, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    write(key_path, _key_pem(key), leaf.owner, 0o600)
    write(certificate_path, _pem(certificate) + authority.chain, leaf.owner)


def _identity(directory: Path, owner: int, role: str, lab: Lab, cell: str, addresses: tuple[str, ...] = ()) -> Leaf:
    domain = f"{cell}.{lab.region}.kumo"
    dns = (f"{lab.host}.{role}.{domain}", *(("localhost",) if addresses else ()))
    name = "region" if cell == "region" else "cell"
    return Leaf(directory / name, f"{role} {lab.host}", owner, f"spiffe://{domain}/{role}/{lab.host}", dns, addresses)


def prepare(lab: Lab) -> None:
    """Make or renew everything. A directory `tls` in each process's own directory holds what that process presents."""
    make_directory(lab.pki, mode=0o700)
    root = _authority(lab.pki / "region-ca", f"Kumo region {lab.region}")
    cell = _authority(lab.pki / "cell-ca", f"Kumo cell {lab.cell} of {lab.region}", root, f"{lab.cell}.{lab.region}.kumo")
    etcd = _authority(lab.pki / "etcd-ca", f"Kumo etcd of {lab.region}")
    owners = {lab.controller: User.CONTROLLER, lab.agent: User.ROOT, lab.etcd: User.ETCD}
    for directory, owner in owners.items():
        make_directory(directory, owner if directory != lab.etcd else 0, 0o750 if directory != lab.etcd else 0o755)
        make_directory(directory / "tls", owner, 0o700)
    controller, agent, store = lab.controller / "tls", lab.agent / "tls", lab.etcd / "tls"
    for directory in (controller, agent):
        write(directory / "ca.crt", _pem(root.certificate), owners[directory.parent])
    for directory in (controller, store):
        write(directory / ("ca.crt" if directory == store else "etcd-ca.crt"), _pem(etcd.certificate), owners[directory.parent])
    _leaf(root, _identity(controller, User.CONTROLLER, "controller", lab, "region", ("127.0.0.1", "::1")))
    _leaf(cell, _identity(controller, User.CONTROLLER, "controller", lab, lab.cell))
    _leaf(cell, _identity(agent, User.ROOT, "agent", lab, lab.cell))
    _leaf(etcd, Leaf(store / "server", "etcd", User.ETCD, dns=("localhost",), addresses=("127.0.0.1",)))
    _leaf(etcd, Leaf(store / "health", "health", User.ROOT))
    for plane in ("region", f"cell-{lab.cell}"):
        _leaf(etcd, Leaf(controller / f"etcd-{plane.split('-')[0]}", plane, User.CONTROLLER))
    make_directory(lab.cli)
    write(lab.cli / "ca.crt", _pem(root.certificate))
