"""Holds the contracts to buf's rules, and to what the last release promised; needs no network.

usage: python -m proto.check

What it compares with is the revision in KUMO_PROTO_BASE, or the newest tag v*; before the first release nothing is promised yet.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from proto.generate import PROTO, ROOT, descriptor_set

BUF = Path(sys.executable).parent / "buf"


def buf(*arguments: str | Path) -> int:
    """Run buf with Kumo's rules on what lies below kumo/api; its complaints go to stdout."""
    command = [str(BUF), *map(str, arguments), "--config", str(PROTO / "buf.yaml"), "--path", "kumo/api"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def base_revision() -> str:
    """Return the revision to compare with, or nothing if there is none."""
    if chosen := os.environ.get("KUMO_PROTO_BASE"):
        return chosen
    command = ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def protos_at(revision: str, folder: Path) -> Path:
    """Unpack proto/ as it was at `revision` below `folder`, and return where."""
    packed = subprocess.run(["git", "archive", revision, "proto"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder)
    return folder / "proto"


def check(now: bytes, before: bytes | None) -> int:
    """Return 0 if the descriptors `now` keep the rules, and break nothing that clients of `before` rely on."""
    with tempfile.TemporaryDirectory(prefix="kumo-proto-") as name:
        folder = Path(name)
        (folder / "now.binpb").write_bytes(now)
        failed = buf("lint", folder / "now.binpb")
        if before is not None:
            (folder / "before.binpb").write_bytes(before)
            failed |= buf("breaking", folder / "now.binpb", "--against", folder / "before.binpb")
    return 1 if failed else 0


def main() -> int:
    revision = base_revision()
    if not revision:
        print("proto: no release to compare with yet")
        return check(descriptor_set(), None)
    with tempfile.TemporaryDirectory(prefix="kumo-proto-") as folder:
        before = descriptor_set(protos_at(revision, Path(folder)))
    return check(descriptor_set(), before)


if __name__ == "__main__":
    raise SystemExit(main())
