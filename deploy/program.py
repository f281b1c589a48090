"""Copies Kumo and the packages it needs to where users of their own can read them: STATE/venv. Installs nothing new.

The checkout may lie in a directory only root can enter, and may change while a lab runs. Third-party packages are taken
over from the checkout's .venv by hard link where that is possible.
"""

import compileall
import filecmp
import hashlib
import os
import shutil
import sys
import venv
from importlib import metadata
from pathlib import Path

from deploy import installed
from deploy.layout import CHECKOUT, Lab

PACKAGES = ("kumo", "storage", "scheduler", "controller", "agent", "cli")
LOCK = CHECKOUT / "requirements.lock"


def site_packages(root: Path) -> Path:
    return root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def locked_names(lock: Path) -> list[str]:
    """The distributions a lock names, without versions and markers."""
    lines = lock.read_text().splitlines()
    return [line.split("==")[0] for line in lines if "==" in line and not line.startswith(("#", " "))]


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_mode & 0o444 == 0o444:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    else:
        shutil.copy2(source, target)
        target.chmod(0o644)


def _copy_dependencies(venv_root: Path, source: Path) -> None:
    """Copy what requirements.lock names; what the system's Python has already stays where it is."""
    wanted = {name.lower().replace("_", "-") for name in locked_names(LOCK)}
    target = site_packages(venv_root)
    for distribution in metadata.distributions(path=[str(source)]):
        if distribution.name.lower().replace("_", "-") not in wanted:
            continue
        for file in distribution.files or []:
            path = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and path.is_file():
                _link_or_copy(path, target / file)


def _sync(source: Path, target: Path) -> bool:
    """Make `target` hold the Python and data files of `source` and nothing else; return whether anything changed."""
    changed = False
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    present = {path.relative_to(target) for path in target.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    for gone in present - wanted:
        (target / gone).unlink()
        changed = True
    for name in wanted:
        if name not in present or not filecmp.cmp(source / name, target / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
            (target / name).chmod(0o644)
            changed = True
    return changed


def refresh(lab: Lab) -> bool:
    """Bring the copy up to date; return whether anything that processes run has changed."""
    previous = os.umask(0o022)
    try:
        stamp = lab.venv / "lock.sha256"
        digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
        changed = not stamp.exists() or stamp.read_text() != digest
        if changed:
            shutil.rmtree(lab.venv, ignore_errors=True)
            venv.create(lab.venv, system_site_packages=True, symlinks=True, with_pip=False)
            _copy_dependencies(lab.venv, site_packages(CHECKOUT / ".venv"))
            stamp.write_text(digest)
        target = site_packages(lab.venv)
        installed.record(target)
        for package in PACKAGES:
            if (CHECKOUT / package).is_dir() and _sync(CHECKOUT / package, target / package):
                changed = True
                compileall.compile_dir(target / package, quiet=2)
        shutil.copy2(CHECKOUT / "deploy" / "supervisor.py", lab.venv / "supervisor.py")
        (lab.venv / "supervisor.py").chmod(0o644)
        return changed
    finally:
        os.umask(previous)
