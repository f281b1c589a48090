"""Finds the etcd server to run, or fetches one: installed, else pinned from Debian unstable, else an old one with a warning.

Standard library only, since it is part of `make setup`. What is fetched is unpacked into the cache and never installed.
See docs/decisions/0002-etcd-server.md.
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.layout import CACHE

OLDEST = (3, 5, 28)
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"


@dataclass(frozen=True)
class Pin:
    """One Debian package that carries an etcd server: where it comes from and what it must be."""

    suite: str
    version: str
    sha256: str


GOOD = Pin("unstable", "3.5.30-2", "11a4f7e350c5020b83edff5160a6063d4e56ac9cd014d21ce8916378bf96de79")
# Too old for anything but a lab: see the decision for what they lack. Only the version is checked, by the archive's signature.
OLD = (("trixie", "3.5.16"), ("bookworm", "3.4"))


@dataclass(frozen=True)
class Etcd:
    """An etcd server that can be run."""

    path: Path
    version: tuple[int, ...]

    @property
    def is_good(self) -> bool:
        return self.version >= OLDEST

    @property
    def text(self) -> str:
        return ".".join(map(str, self.version))


def _version(path: Path) -> tuple[int, ...]:
    """Return what `etcd --version` says, or nothing at all if it does not run."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return ()
    found = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else ()


def find(cache: Path = CACHE) -> Etcd | None:
    """Return the best etcd this machine has already, or None."""
    candidates = [Path(path) for path in [shutil.which("etcd")] if path]
    candidates += sorted((cache / "etcd").glob("*/usr/bin/etcd"))
    found = [Etcd(path, version) for path in candidates if (version := _version(path))]
    return max(found, key=lambda etcd: etcd.version, default=None)


def locate() -> Path:
    """Return the etcd server for tests and labs. Raises FileNotFoundError that says what to run."""
    etcd = find()
    if etcd is None:
        raise FileNotFoundError("no etcd server: run `make setup`")
    return etcd.path


def _apt(root: Path, suite: str) -> list[str]:
    """Return the options that make apt work on lists of its own under `root`, with only `suite` as a source."""
    for name in ("lists/partial", "cache/archives/partial", "state", "parts"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": root / "parts",
        "Dir::State": root / "state",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::State::lists": root / "lists",
        "Dir::Cache": root / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return [part for key, value in options.items() for part in ("-o", f"{key}={value}")]


def _download(suite: str, version: str, folder: Path) -> Path:
    """Download etcd-server of that version (or the one the suite has, if `version` is only a beginning)."""
    with tempfile.TemporaryDirectory(prefix="kumo-apt-") as scratch:
        options = _apt(Path(scratch), suite)
        subprocess.run(["apt-get", "-qq", *options, "update"], check=True, timeout=300)
        wanted = f"etcd-server={version}" if "-" in version else "etcd-server"
        subprocess.run(["apt-get", "-qq", *options, "download", wanted], check=True, timeout=300, cwd=folder)
    return next(folder.glob("etcd-server_*.deb"))


def _unpack(package: Path, into: Path) -> Path:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "--extract", package, into], check=True, timeout=120)
    into.chmod(0o755)
    return into / "usr" / "bin" / "etcd"


def fetch(cache: Path = CACHE) -> Etcd:
    """Bring an etcd server into the cache. Raises OSError if none can be had."""
    reasons = []
    for suite, version, sha256 in [(GOOD.suite, GOOD.version, GOOD.sha256), *((suite, version, "") for suite, version in OLD)]:
        with tempfile.TemporaryDirectory(prefix="kumo-etcd-") as scratch:
            try:
                package = _download(suite, version, Path(scratch))
            except (subprocess.SubprocessError, StopIteration) as error:
                reasons.append(f"Debian {suite}: {error}")
                continue
            if sha256 and hashlib.sha256(package.read_bytes()).hexdigest() != sha256:
                reasons.append(f"Debian {suite}: the package has another digest than the one pinned")
                continue
            path = _unpack(package, cache / "etcd" / suite)
            if found := _version(path):
                return Etcd(path, found)
            reasons.append(f"Debian {suite}: its etcd does not run here")
    raise OSError("no etcd server can be had: " + "; ".join(reasons))


def ensure(cache: Path = CACHE) -> tuple[Etcd, str]:
    """Return an etcd server and, unless it was there already, what was done to get it."""
    present = find(cache)
    if present and present.is_good:
        return present, ""
    try:
        fetched = fetch(cache)
    except OSError:
        if present:
            return present, ""
        raise
    return fetched, f"etcd {fetched.text} fetched into {fetched.path}: the store of the control plane"
