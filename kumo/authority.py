"""Makes the certificates of a cloud: a root, an intermediate for each plane that can speak for that plane alone, and leaves.

It keeps nothing and asks nobody: where keys lie and when they are renewed is the caller's. etcd has a root of its own, whose leaves
carry a common name, because etcd knows its users by nothing else.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kumo.identity import Identity, trust_domain

ROOT_LIFETIME = timedelta(days=3650)
PLANE_LIFETIME = timedelta(days=730)
# Clocks of machines that join differ: one that is an hour behind takes what was issued just now all the same.
_BACKDATED = timedelta(hours=2)
_EVERY_ADDRESS = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True)
class Pem:
    """A certificate with what is needed to verify it below the root, and its key."""

    cert: bytes
    key: bytes


@dataclass(frozen=True)
class Authority:
    """Something that signs: `certificates` starts with its own and goes up to, but leaves out, the root; a root has only itself."""

    certificates: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey
    is_root: bool

    @property
    def certificate(self) -> x509.Certificate:
        return self.certificates[0]

    @property
    def cert_pem(self) -> bytes:
        return b"".join(_pem(certificate) for certificate in self.certificates)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)


@dataclass(frozen=True)
class Subject:
    """What a leaf says: any of a common name, one URI, DNS names and IP addresses."""

    common_name: str = ""
    uri: str = ""
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def new_root(common_name: str, now: datetime, lifetime: timedelta = ROOT_LIFETIME) -> Authority:
    """Return a self-signed root that may have one level of authorities below it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    builder = _builder(name, name, key.public_key(), now, lifetime)
    certificate = _as_authority(builder, key.public_key(), None, path_length=1).sign(key, hashes.SHA256())
    return Authority((certificate,), key, is_root=True)


def new_plane(root: Authority, cell: str, region: str, now: datetime, lifetime: timedelta = PLANE_LIFETIME) -> Authority:
    """Return the authority of one plane. Its critical name constraints let it speak for no other, and for no IP address."""
    key = ec.generate_private_key(ec.SECP256R1())
    domain = trust_domain(cell, region)
    builder = _builder(_name(f"Kumo {domain}"), root.certificate.subject, key.public_key(), now, lifetime)
    builder = _as_authority(builder, key.public_key(), root, path_length=0)
    permitted = [x509.UniformResourceIdentifier(domain), x509.DNSName(f".{domain}")]
    excluded = [x509.IPAddress(network) for network in _EVERY_ADDRESS]
    builder = builder.add_extension(x509.NameConstraints(permitted, excluded), critical=True)
    return Authority((builder.sign(root.key, hashes.SHA256()),), key, is_root=False)


def issue(authority: Authority, subject: Subject, now: datetime, lifetime: timedelta) -> Pem:
    """Return a leaf with a new key. Both usages are set, because what dials also listens. Whether the names are allowed is not asked."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Pem(sign(authority, subject, key.public_key(), now, lifetime), key_pem(key))


def issue_for(authority: Authority, identity: Identity, now: datetime, lifetime: timedelta, *, also_dns: Sequence[str] = ()) -> Pem:
    """Return the leaf of a process, with the names that `identity` stands for and `also_dns`."""
    return issue(authority, Subject(uri=identity.uri, dns=(identity.dns, *also_dns)), now, lifetime)


def sign(authority: Authority, subject: Subject, public_key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta) -> bytes:
    """Return the certificate of somebody else's key, with the authorities below the root, as PEM."""
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in subject.dns]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in subject.addresses]
    if subject.uri:
        names.append(x509.UniformResourceIdentifier(subject.uri))
    common_name = _name(subject.common_name) if subject.common_name else x509.Name([])
    builder = _builder(common_name, authority.certificate.subject, public_key, now, lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    # RFC 5280 4.2.1.6: with an empty subject the alternative names are critical.
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject.common_name)
    # keyEncipherment means nothing for elliptic curves, but libvirt refuses a certificate without it.
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = _with_key_ids(builder, public_key, authority)
    leaf = builder.sign(authority.key, hashes.SHA256())
    return _pem(leaf) + (b"" if authority.is_root else authority.cert_pem)


def load_authority(cert_pem: bytes, key: bytes) -> Authority:
    """Return the authority that was kept as PEM."""
    certificates = tuple(x509.load_pem_x509_certificates(cert_pem))
    private = serialization.load_pem_private_key(key, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError(f"the authority's key is a {type(private).__name__}, not an elliptic-curve key")
    return Authority(certificates, private, is_root=certificates[0].issuer == certificates[0].subject)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _BACKDATED).not_valid_after(now + lifetime)


def _as_authority(
    builder: x509.CertificateBuilder, public_key: ec.EllipticCurvePublicKey, issuer: Authority | None, *, path_length: int
) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return _with_key_ids(builder, public_key, issuer)


def _with_key_ids(
    builder: x509.CertificateBuilder, public_key: ec.EllipticCurvePublicKey, issuer: Authority | None
) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    if issuer is None:
        return builder
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return builder.add_extension(issuer_id, critical=False)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=not signs_certificates,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
