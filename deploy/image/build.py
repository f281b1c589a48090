"""Builds the tiny guest image into the cache, unless what it is made of has not changed. Installs nothing, needs no root.

The image is a kernel of Debian's for virtual machines with an initial file system of busybox, on a disk that boots by BIOS. It is
kept by a digest of this package's own files: a newer kernel in Debian does not rebuild it, `make image` does.

usage: python3 -m deploy.image.build [--anew]
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.image import debian, disk, initrd
from deploy.layout import CACHE

KERNEL = "linux-image-cloud-amd64"
PACKAGES = ("busybox-static", "syslinux", "syslinux-common", "mtools", "dropbear-bin", "libtommath1", "libtomcrypt1")
NAME = "kt"


def key() -> str:
    """Return the digest of everything in this package that shapes the image."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.glob("guest/*")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def image(cache: Path = CACHE) -> Path:
    """Return where the image of the present sources lies, or would lie."""
    return cache / "image" / f"{NAME}-{key()}.qcow2"


def build(target: Path) -> None:
    """Build into `target`. Raises OSError or subprocess.SubprocessError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kumo-image-") as name:
        scratch = Path(name)
        root = debian.unpack([debian.newest(KERNEL), *PACKAGES], scratch)
        initrd.build(root, scratch / "initrd")
        fresh = target.with_suffix(".new")
        disk.build(root, initrd.kernel(root), scratch / "initrd", scratch, fresh)
        fresh.chmod(0o644)
        for old in target.parent.glob(f"{NAME}-*.qcow2"):
            old.unlink()
        fresh.rename(target)


def ensure(cache: Path = CACHE) -> tuple[Path, str]:
    """Return the image and, unless it was there already, what was done to get it."""
    target = image(cache)
    if target.exists():
        return target, ""
    try:
        build(target)
    except subprocess.CalledProcessError:
        debian.refresh_lists()  # on a fresh machine there are none, and old ones name packages that are gone
        build(target)
    return target, f"guest image built: {target}, {target.stat().st_size >> 20} MiB"


if __name__ == "__main__":
    if "--anew" in sys.argv:
        image().unlink(missing_ok=True)
    print(ensure()[1] or f"guest image is there: {image()}")
