"""`make setup`: installs what this machine lacks and says what and why; does nothing, quickly, when all is there.

Debian packages, the etcd server, the virtual environment from the committed locks, the guest image. Standard library only,
run by the system's own Python, because on a fresh machine there is nothing else.

usage: python3 -m deploy.setup [--develop | --fakes]
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy import etcd_binary, installed, packages
from deploy.image import build
from deploy.layout import CHECKOUT

VENV = CHECKOUT / ".venv"
LOCKS = {"run": CHECKOUT / "requirements.lock", "develop": CHECKOUT / "requirements-dev.lock"}


def _digest(lock: Path) -> str:
    project = (CHECKOUT / "pyproject.toml").read_bytes()
    return hashlib.sha256(lock.read_bytes() + project + sys.version.encode()).hexdigest()


def _stamp(kind: str) -> Path:
    return VENV / f"kumo-{kind}.sha256"


def _is_current(kind: str) -> bool:
    stamp = _stamp(kind)
    return stamp.exists() and stamp.read_text() == _digest(LOCKS[kind])


def _environment(kinds: list[str]) -> None:
    """Install the locks into .venv, which also sees the system's packages, since libvirt, rados and rbd come from there."""
    if all(map(_is_current, kinds)):
        return
    print(f"Python packages into {VENV}, by digest, from {', '.join(LOCKS[kind].name for kind in kinds)}")
    for kind in LOCKS:
        _stamp(kind).unlink(missing_ok=True)
    if not (VENV / "bin" / "python").exists():
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", VENV], check=True, timeout=120)
    command: list[str | Path] = [VENV / "bin" / "python", "-m", "pip", "install", "-qq", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--only-binary=:all:"]
    for kind in kinds:
        command += ["-r", LOCKS[kind]]
    # Wherever this machine's pip is configured to look, the digests decide what is taken.
    subprocess.run(command, check=True, timeout=1800)
    # The checkout itself is found without being installed, so that a change needs no second installation.
    site = next((VENV / "lib").glob("python3*/site-packages"))
    (site / "kumo-checkout.pth").write_text(f"{CHECKOUT}\n")
    installed.record(site)
    _commands()
    for kind in kinds:
        _stamp(kind).write_text(_digest(LOCKS[kind]))


def _commands() -> None:
    """Write the commands of pyproject's [project.scripts] that a person calls from .venv/bin."""
    python = VENV / "bin" / "python"
    for name, module in {"kumo": "cli.main", "kumo-controller": "controller.main", "kumo-agent": "agent.main"}.items():
        command = VENV / "bin" / name
        command.write_text(f"#!{python}\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n")
        command.chmod(0o755)


def main(arguments: list[str]) -> int:
    develop, fakes = "--develop" in arguments, "--fakes" in arguments
    if any(character.isspace() for character in str(CHECKOUT)):
        print(f"setup failed: {str(CHECKOUT)!r} has a space in it, which programs in .venv cannot have; move the checkout", file=sys.stderr)
        return 1
    os.umask(0o022)
    try:
        # A region of fake hosts is for whoever is not root, and needs no more than Python and etcd.
        packages.install(packages.FAKES if fakes else packages.RUN | (packages.DEVELOP if develop else {}))
        _environment(["run", "develop"] if develop else ["run"])
        etcd, *done = etcd_binary.ensure()
        if not fakes:
            done.append(build.ensure()[1])
    except (OSError, subprocess.SubprocessError) as error:
        print(f"setup failed: {error}", file=sys.stderr)
        return 1
    for line in filter(None, done):
        print(line)
    if not etcd.is_good:
        print(f"warning: etcd {etcd.text} is older than 3.5.28: good enough for a lab only (docs/decisions/0002-etcd-server.md)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
