"""Compiles the contracts below proto/ to Python below kumo/api/, or, with --check, says whether what is there is fresh.

A field that does not say who may see it, nor its message, does not build. The output depends on the .proto files and on the
locked compilers alone. `buf.validate` is generated as
kumo.api.buf.validate, so that Kumo claims no top-level name that is not its own.
"""

import argparse
import importlib.util
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
ROOT = PROTO.parent
TARGET = Path("kumo/api")
# kumo.api.audience of fields and kumo.api.default_audience of messages.
AUDIENCE_OPTION = 50001
PACKAGE_LINE = '"""Generated from proto/ by proto/generate.py."""\n'

# Python, and its stubs, import buf.validate in these spellings.
_RENAMES = (
    (re.compile(r"^from buf\.validate import", re.MULTILINE), "from kumo.api.buf.validate import"),
    (re.compile(r"^import buf\.validate\.", re.MULTILINE), "import kumo.api.buf.validate."),
    (re.compile(r"^from buf import", re.MULTILINE), "from kumo.api.buf import"),
)


def sources(root: Path = PROTO) -> list[str]:
    """Return every .proto file to compile, relative to `root`, in a fixed order."""
    found = [*root.glob("kumo/**/*.proto"), *root.glob("buf/**/*.proto")]
    return sorted(path.relative_to(root).as_posix() for path in found)


def includes() -> list[str]:
    """Return where google/protobuf and google/{api,rpc,type} lie; both come as files with Python packages."""
    tools = importlib.util.find_spec("grpc_tools")
    common = importlib.util.find_spec("google.api")
    assert tools is not None and tools.origin is not None
    assert common is not None and common.submodule_search_locations is not None
    return [str(Path(tools.origin).parent / "_proto"), str(Path(next(iter(common.submodule_search_locations))).parent.parent)]


def compile_protos(names: list[str], output: Path) -> None:
    """Run protoc and its plug-ins of this same environment, writing below `output`."""
    programs = Path(sys.executable).parent
    with_services = [name for name in names if re.search(r"^service ", (PROTO / name).read_text(), re.MULTILINE)]
    paths = [f"-I{PROTO}", *(f"-I{path}" for path in includes())]
    typed = [f"--plugin=protoc-gen-mypy={programs / 'protoc-gen-mypy'}", f"--mypy_out=quiet:{output}"]
    stubs = [f"--plugin=protoc-gen-mypy_grpc={programs / 'protoc-gen-mypy_grpc'}", f"--mypy_grpc_out=quiet:{output}"]
    run = [*paths, f"--python_out={output}", *typed, *names]
    if protoc.main(["protoc", *run]) != 0:
        raise SystemExit("proto: protoc refused the files named above")
    if with_services and protoc.main(["protoc", *paths, f"--grpc_python_out={output}", *stubs, *with_services]) != 0:
        raise SystemExit("proto: the gRPC plug-ins refused the files named above")


def descriptor_set(root: Path = PROTO) -> bytes:
    """Return every file below `root` and what they import, with comments, as a serialized FileDescriptorSet."""
    with tempfile.TemporaryDirectory(prefix="kumo-proto-") as folder:
        output = Path(folder) / "all.binpb"
        options = [f"-I{root}", *(f"-I{path}" for path in includes()), "--include_imports", "--include_source_info"]
        if protoc.main(["protoc", *options, f"--descriptor_set_out={output}", *sources(root)]) != 0:
            raise SystemExit("proto: protoc refused the files named above")
        return output.read_bytes()


def without_audience(descriptors: bytes) -> list[str]:
    """Return the fields, as file: message.field, that say nothing of who may see them, on messages that say nothing either."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors)
    found: list[str] = []

    def look(file: str, message: descriptor_pb2.DescriptorProto, path: str) -> None:
        if not message.options.map_entry and not _has_option(message.options):
            found.extend(f"{file}: {path}.{field.name}" for field in message.field if not _has_option(field.options))
        for inner in message.nested_type:
            look(file, inner, f"{path}.{inner.name}")

    for file in files.file:
        if file.package.startswith("kumo.api."):
            for message in file.message_type:
                look(file.name, message, message.name)
    return found


def _has_option(options: descriptor_pb2.MessageOptions | descriptor_pb2.FieldOptions) -> bool:
    """True if the option of Kumo's number is set; known by name only where its generated code was imported before."""
    known = (field.number for field, _ in options.ListFields())
    unknown = (field.field_number for field in UnknownFieldSet(options))  # type: ignore[attr-defined]  # the stub forgot
    return AUDIENCE_OPTION in (*known, *unknown)


def renamed(text: str) -> str:
    for pattern, replacement in _RENAMES:
        text = pattern.sub(replacement, text)
    return text


def generated() -> dict[Path, str]:
    """Return the text of every generated file by its path in the project."""
    names = sources()
    with tempfile.TemporaryDirectory(prefix="kumo-proto-") as folder:
        output = Path(folder)
        compile_protos(names, output)
        files: dict[Path, str] = {}
        for path in sorted([*output.rglob("*.py"), *output.rglob("*.pyi")]):
            relative = path.relative_to(output)
            if relative.parts[0] == "buf":
                relative = TARGET / relative
            files[relative] = renamed(path.read_text())
    for path in list(files):
        for folder_path in path.parents:
            if TARGET in (folder_path, *folder_path.parents):
                files[folder_path / "__init__.py"] = PACKAGE_LINE
    return files


def existing() -> dict[Path, str]:
    found = [*(ROOT / TARGET).rglob("*.py"), *(ROOT / TARGET).rglob("*.pyi")]
    return {path.relative_to(ROOT): path.read_text() for path in found}


def stale(wanted: Mapping[Path, str], have: Mapping[Path, str]) -> list[str]:
    """Return one line for each file that is missing, different or no longer wanted."""
    lines = [f"missing: {path}" for path in wanted if path not in have]
    lines += [f"different: {path}" for path, text in wanted.items() if path in have and have[path] != text]
    return sorted(lines + [f"no longer wanted: {path}" for path in have if path not in wanted])


def write(wanted: Mapping[Path, str], have: Mapping[Path, str]) -> None:
    """Make the tree equal to `wanted`, touching only what differs."""
    for path in have.keys() - wanted.keys():
        (ROOT / path).unlink()
    for path, text in wanted.items():
        if have.get(path) != text:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if kumo/api is not fresh")
    check = parser.parse_args().check
    silent = without_audience(descriptor_set())
    for line in silent:
        print(f"proto: {line} says nothing of who may see it, nor does its message")
    if silent:
        return 1
    wanted, have = generated(), existing()
    lines = stale(wanted, have)
    if not check:
        write(wanted, have)
        print(f"proto: {len(wanted)} files in {TARGET}, {len(lines)} changed")
        return 0
    for line in lines:
        print(f"proto: {line}")
    if lines:
        print("proto: kumo/api is not fresh; run `make proto` and commit what it writes")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
