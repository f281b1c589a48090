"""Keeps the lab's certificates: makes what is missing, renews what is past half its life, puts each where its process reads it.

What a certificate says is kumo.authority's. Keys of the authorities stay in STATE/pki; each process has a directory `tls` of its
own with ca.crt and, by plane, its certificate and key.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from deploy.files import make_directory, write
from deploy.layout import LOOPBACK, Lab, Role, User
from kumo import authority
from kumo.authority import Authority, Subject
from kumo.identity import REGION_PLANE, Identity

LEAF_LIFETIME = timedelta(days=365)


@dataclass(frozen=True)
class Leaf:
    """One certificate: who signs it, what it says, and the files PATH.crt and PATH.key that only `owner` reads."""

    path: Path
    owner: int
    signer: Authority
    subject: Subject


def _kept(path: Path, make: Callable[[], Authority]) -> Authority:
    """Return the authority kept at `path`, or make and keep it."""
    certificate, key = path.with_suffix(".crt"), path.with_suffix(".key")
    if not certificate.exists():
        made = make()
        write(key, made.key_pem, mode=0o600)
        write(certificate, made.cert_pem)
    return authority.load_authority(certificate.read_bytes(), key.read_bytes())


def _is_current(leaf: Leaf, now: datetime) -> bool:
    try:
        found = x509.load_pem_x509_certificate(leaf.path.with_suffix(".crt").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    half = (found.not_valid_after_utc - found.not_valid_before_utc) / 2
    return leaf.path.with_suffix(".key").exists() and now < found.not_valid_before_utc + half


def _renew(leaf: Leaf, now: datetime) -> None:
    """Issue `leaf` with a new key, unless the present one is in the first half of its life."""
    if not _is_current(leaf, now):
        made = authority.issue(leaf.signer, leaf.subject, now, LEAF_LIFETIME)
        write(leaf.path.with_suffix(".key"), made.key, leaf.owner, 0o600)
        write(leaf.path.with_suffix(".crt"), made.cert, leaf.owner)


def _process(identity: Identity, *dns: str, addresses: tuple[str, ...] = ()) -> Subject:
    return Subject(uri=identity.uri, dns=(identity.dns, *dns), addresses=addresses)


def _leaves(lab: Lab, root: Authority, cell: Authority, etcd: Authority) -> list[Leaf]:
    controller, agent, store = (directory / "tls" for directory in (lab.controller, lab.agent, lab.etcd))
    here = (LOOPBACK, "::1")
    region = _process(Identity(REGION_PLANE, lab.region, "controller", lab.host), "localhost", addresses=here)
    etcd_addresses = tuple(dict.fromkeys((*here, lab.addresses.management)))
    by_role = {
        Role.CONTROLLER: [
            Leaf(controller / "region", User.CONTROLLER, root, region),
            Leaf(controller / "cell", User.CONTROLLER, cell, _process(Identity(lab.cell, lab.region, "controller", lab.host))),
            # etcd knows its users by their common name: one for each plane.
            Leaf(controller / "etcd-region", User.CONTROLLER, etcd, Subject("region")),
            Leaf(controller / "etcd-cell", User.CONTROLLER, etcd, Subject(f"cell-{lab.cell}")),
        ],
        Role.HOST: [Leaf(agent / "cell", User.ROOT, cell, _process(Identity(lab.cell, lab.region, "agent", lab.host)))],
        Role.STORE: [
            Leaf(store / "server", User.ETCD, etcd, Subject("etcd", dns=("localhost",), addresses=etcd_addresses)),
            Leaf(store / "health", User.ROOT, etcd, Subject("health")),
        ],
    }
    return [leaf for role, leaves in by_role.items() if role in lab.roles for leaf in leaves]


def prepare(lab: Lab) -> None:
    """Make or renew everything."""
    now = datetime.now(UTC)
    make_directory(lab.pki, mode=0o700)
    root = _kept(lab.pki / "region-ca", lambda: authority.new_root(f"Kumo region {lab.region}", now))
    cell = _kept(lab.pki / "cell-ca", lambda: authority.new_plane(root, lab.cell, lab.region, now))
    etcd = _kept(lab.pki / "etcd-ca", lambda: authority.new_root(f"Kumo etcd of {lab.region}", now))
    if Role.CONTROLLER in lab.roles:
        _make_place(lab.controller, User.CONTROLLER, 0o750, root)
        write(lab.controller / "tls" / "etcd-ca.crt", etcd.cert_pem, User.CONTROLLER)
    if Role.HOST in lab.roles:
        # Others may pass through the agent's directory, to what is theirs in it, and look into nothing.
        _make_place(lab.agent, User.ROOT, 0o711, root)
    if Role.STORE in lab.roles:
        make_directory(lab.etcd)
        make_directory(lab.etcd / "tls", User.ETCD, 0o700)
        write(lab.etcd / "tls" / "ca.crt", etcd.cert_pem, User.ETCD)
    for leaf in _leaves(lab, root, cell, etcd):
        _renew(leaf, now)
    make_directory(lab.cli)
    write(lab.cli / "ca.crt", root.cert_pem)


def prepare_hosts(lab: Lab, folder: Path, hosts: Iterable[str]) -> None:
    """Make or renew what more hosts of the lab's cell present, each in a directory of its own in `folder`; after prepare()."""
    now = datetime.now(UTC)
    root, cell = ((lab.pki / name).with_suffix(".crt").read_bytes() for name in ("region-ca", "cell-ca"))
    signer = authority.load_authority(cell, (lab.pki / "cell-ca.key").read_bytes())
    make_directory(folder)
    for host in hosts:
        make_directory(folder / host, mode=0o700)
        write(folder / host / "ca.crt", root)
        _renew(Leaf(folder / host / "cell", User.ROOT, signer, _process(Identity(lab.cell, lab.region, "agent", host))), now)


def _make_place(directory: Path, owner: int, mode: int, root: Authority) -> None:
    """Make the directory of a process, and in it that of its certificates."""
    make_directory(directory, owner, mode)
    make_directory(directory / "tls", owner, 0o700)
    write(directory / "tls" / "ca.crt", root.cert_pem, owner)
