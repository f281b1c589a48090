"""Compiles the protos of the store (etcd's own, the store's, one noun for its tests) to Python; with --check, says whether that is fresh.

etcd's protos can be taken anew out of Debian's source package (--import golang-etcd-server-dev_*.deb). Two things make the
result safe beside any other etcd client in one process: what only etcd's Go build needs is cut out, and the proto packages
become kumo.etcd.*, since two descriptions of one package refuse to load. Stubs are not generated: what travels keeps etcd's
names, which kumo/store/client.py spells out.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
ROOT = PROTO.parent
SOURCES = {
    "kumo/store/etcd": {"kv": "mvccpb/kv.proto", "auth": "authpb/auth.proto", "rpc": "etcdserverpb/rpc.proto"},
    "kumo/store/v1": {"values": ""},
    "tests/kumo/store": {"record": ""},
}
PACKAGE_LINES = {
    "kumo/store/etcd": '"""Generated from proto/etcd by proto/generate_store.py: etcd\'s v3 messages. Apache-2.0, see LICENSE."""\n',
    "kumo/store/v1": '"""Generated from proto/store by proto/generate_store.py."""\n',
}
FOLDERS = {"kumo/store/etcd": PROTO / "etcd", "kumo/store/v1": PROTO / "store", "tests/kumo/store": ROOT / "tests/kumo/store"}
HEADER = """// Copyright The etcd Authors. Licensed under the Apache License, Version 2.0: see LICENSE beside this file.
// Changed from etcd's api/{source}: package renamed; options of gogoproto, grpc-gateway and versionpb removed.

"""


def without_options(text: str, source: str) -> str:
    """Return etcd's proto text without what only its Go build needs."""
    text = re.sub(r'^import "(gogoproto|google/api|protoc-gen|etcd/api/versionpb)[^\n]*\n', "", text, flags=re.MULTILINE)
    text = re.sub(r'^import "[^"]*?(kv|auth)\.proto";', r'import "kumo/store/etcd/\1.proto";', text, flags=re.MULTILINE)
    text = re.sub(r"^// for grpc-gateway\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^option \(grpc\.gateway[\s\S]*?^};\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*option \((gogoproto|versionpb)[^;]*;\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^option go_package[^\n]*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\s*\[\s*\((gogoproto|versionpb)\.[^\]]*\]", "", text)
    text = re.sub(r"\{\s*option \(google\.api\.http\) = \{[\s\S]*?\};\s*\}", "{}", text)
    text = re.sub(r"\b(mvccpb|authpb)\.(?=[A-Z])", r"kumo.etcd.\1.", text)
    text = re.sub(r"^package (\w+);", r"package kumo.etcd.\1;", text, flags=re.MULTILINE)
    text = re.sub(r"\n{3,}", "\n\n", text)
    for trace in ("gogoproto", "google/api", "versionpb", "grpc.gateway"):
        if trace in text:
            raise SystemExit(f"proto: {source} still mentions {trace}; this version of etcd needs another rule here")
    return HEADER.format(source=source) + text


def import_from(package: Path) -> None:
    """Rewrite proto/etcd from the files in Debian's golang-etcd-server-dev."""
    with tempfile.TemporaryDirectory(prefix="kumo-proto-") as folder:
        subprocess.run(["dpkg", "-x", str(package), folder], check=True)
        api = Path(folder) / "usr/share/gocode/src/go.etcd.io/etcd/api"
        for name, source in SOURCES["kumo/store/etcd"].items():
            (PROTO / "etcd" / f"{name}.proto").write_text(without_options((api / source).read_text(), source))


def generated() -> dict[Path, str]:
    """Return the text of every generated file by its path in the project."""
    files: dict[Path, str] = {Path("kumo/store/etcd/LICENSE"): (PROTO / "etcd" / "LICENSE").read_text()}
    with tempfile.TemporaryDirectory(prefix="kumo-proto-") as folder:
        for package, sources in SOURCES.items():
            include = [f"--proto_path={package}={FOLDERS[package]}", f"--proto_path={Path(protoc.__file__).parent / '_proto'}"]
            names = [f"{package}/{name}.proto" for name in sources]
            plugin = f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}"
            if protoc.main(["protoc", *include, plugin, f"--python_out={folder}", f"--mypy_out=quiet:{folder}", *names]) != 0:
                raise SystemExit(f"proto: protoc refused {', '.join(names)}")
            for path in sorted((Path(folder) / package).iterdir()):
                files[path.relative_to(folder)] = path.read_text()
            if package in PACKAGE_LINES:
                files[Path(package) / "__init__.py"] = PACKAGE_LINES[package]
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something is not fresh")
    parser.add_argument("--import", dest="package", type=Path, help="a golang-etcd-server-dev package to take etcd's protos from")
    arguments = parser.parse_args()
    if arguments.package:
        import_from(arguments.package)
    wanted = generated()
    changed = [path for path, text in wanted.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    if arguments.check:
        for path in changed:
            print(f"proto: {path} is not fresh; run proto/generate_store.py and commit what it writes")
        return 1 if changed else 0
    for path in changed:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(wanted[path])
    print(f"proto: {len(wanted)} files of the store, {len(changed)} changed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
