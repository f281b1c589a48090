"""Gets files out of Debian packages without installing them."""

import os
import re
import subprocess
from pathlib import Path

ARCHIVE_S = 600


def _download(names: list[str], folder: Path) -> None:
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download", *names]
    subprocess.run(command, check=True, cwd=folder, timeout=ARCHIVE_S, stdout=subprocess.DEVNULL)


def newest(metapackage: str) -> str:
    """Return the package that a metapackage stands for at present."""
    command = ["apt-cache", "depends", "--no-recommends", "--no-suggests", metapackage]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"Depends: (\S+)", text)
    if found is None:
        raise OSError(f"Debian's {metapackage} stands for no package")
    return found[1]


def refresh_lists() -> None:
    subprocess.run(["apt-get", "-qq", "update"], check=True, timeout=ARCHIVE_S)


def unpack(names: list[str], folder: Path) -> Path:
    """Download the packages and unpack them below `folder`; return the root of what was in them."""
    archives, root = folder / "archives", folder / "root"
    archives.mkdir()
    root.mkdir()
    _download(names, archives)
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", archive, root], check=True, timeout=120)
    return root


def library_path(root: Path) -> dict[str, str]:
    """Return an environment in which programs below `root` find each other and their libraries."""
    libraries = [str(path) for pattern in ("usr/lib/*-linux-gnu", "lib/*-linux-gnu") for path in root.glob(pattern)]
    programs = [str(root / folder) for folder in ("usr/bin", "usr/sbin", "bin", "sbin")]
    return os.environ | {"LD_LIBRARY_PATH": ":".join(libraries), "PATH": ":".join([*programs, "/usr/sbin:/sbin:/usr/bin:/bin"])}
