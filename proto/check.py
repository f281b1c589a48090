"""Holds the contracts against buf's rules of style and against the last release, or, with --release, makes them the release.

buf reads a descriptor set that protoc makes here, because the protos of Google come as files of a Python package and not from buf's
registry. proto/baseline.binpb is what was released: nothing in it may be taken away or changed.

usage: python -m proto.check [--release]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

from proto.generate import PROTO, includes, sources

BASELINE = PROTO / "baseline.binpb"
BUF = Path(sys.executable).with_name("buf")


def describe(target: Path, *options: str) -> None:
    """Write the descriptor set of every contract, and of what they import, to `target`."""
    paths = [f"-I{PROTO}", *(f"-I{path}" for path in includes())]
    ours = [name for name in sources() if name.startswith("kumo/")]
    if protoc.main(["protoc", *paths, f"--descriptor_set_out={target}", "--include_imports", *options, *ours]):
        raise SystemExit("proto: protoc refused the files named above")


def buf(*arguments: str | Path) -> int:
    command = [BUF, *arguments, "--config", PROTO / "buf.yaml", "--path", "kumo/api"]
    return subprocess.run(command, cwd=PROTO, timeout=120, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", action="store_true", help="write proto/baseline.binpb: from now on nothing may be taken away")
    if parser.parse_args().release:
        describe(BASELINE)
        return 0
    with tempfile.TemporaryDirectory(prefix="kumo-proto-") as folder:
        now = Path(folder) / "now.binpb"
        describe(now, "--include_source_info")
        return buf("lint", now) or (buf("breaking", now, "--against", BASELINE) if BASELINE.exists() else 0)


if __name__ == "__main__":
    raise SystemExit(main())
