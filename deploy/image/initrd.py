"""Makes the tiny guest's initial file system: busybox, some kernel modules, dropbear, and the scripts in guest/."""

import gzip
import lzma
import os
import re
import stat
import subprocess
from pathlib import Path

from deploy.image.debian import library_path

SCRIPTS = Path(__file__).parent / "guest"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console", "button", "evdev")
FOLDERS = ("bin", "dev", "etc/acpi/PWRF", "lib/modules", "lib64", "mnt", "persist", "proc", "root", "run", "sys", "tmp", "usr", "var")
LINKS = {"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin", "var/run": "../run"}
ACCOUNTS = {
    "etc/passwd": "root::0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

# One entry of the archive: its mode with the file type, and its content (a link's target, a file's bytes).
Entries = dict[str, tuple[int, bytes]]


def _module_files(root: Path) -> dict[str, Path]:
    found = {}
    for path in root.glob("**/*.ko*"):
        found[path.name.split(".ko")[0].replace("-", "_")] = path
    return found


def _content(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def modules_in_order(root: Path) -> dict[str, bytes]:
    """Return name.ko -> content of MODULES and of what they need, each after its needs. A module that is built in is left out.

    Source: the `depends=` entry of a module's .modinfo section, which depmod reads too; an unpacked kernel has no modules.dep.
    """
    files, ordered = _module_files(root), dict[str, bytes]()

    def add(name: str) -> None:
        if name not in files or f"{name}.ko" in ordered:
            return
        content = _content(files[name])
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for need in needs[1].decode().split(",") if needs else []:
            add(need.replace("-", "_"))
        ordered[f"{name}.ko"] = content

    for name in MODULES:
        add(name)
    return ordered


def _libraries(program: Path, root: Path) -> dict[str, bytes]:
    """Return where `ldd` finds the libraries of `program`, as paths in the guest."""
    done = subprocess.run(["ldd", program], check=True, capture_output=True, text=True, env=library_path(root), timeout=60)
    found = {}
    for line in done.stdout.splitlines():
        if where := re.search(r"(?:=> )?(/\S+) \(0x", line):
            path = Path(where[1])
            folder = "lib64" if path.name.startswith("ld-linux") else "lib"
            found[f"{folder}/{path.name}"] = path.read_bytes()
    return found


def entries(root: Path) -> Entries:
    """Return the whole file system, from packages unpacked below `root`."""
    made: Entries = {}
    for folder in FOLDERS:
        parts = folder.split("/")
        for count in range(1, len(parts) + 1):
            made["/".join(parts[:count])] = (stat.S_IFDIR | 0o755, b"")
    for name, target in LINKS.items():
        made[name] = (stat.S_IFLNK | 0o777, target.encode())
    busybox = root / "bin" / "busybox"
    programs = {"bin/busybox": busybox, "bin/dropbear": root / "usr" / "sbin" / "dropbear"}
    for name, path in programs.items():
        made[name] = (stat.S_IFREG | 0o755, path.read_bytes())
    for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True, timeout=60).stdout.split():
        made.setdefault(f"bin/{applet}", (stat.S_IFLNK | 0o777, b"busybox"))
    for name, content in _libraries(programs["bin/dropbear"], root).items():
        made[name] = (stat.S_IFREG | 0o755, content)
    scripts = {"init": "init", "lease": "etc/lease", "power-button": "etc/acpi/PWRF/00000080"}
    for source, target in scripts.items():
        made[target] = (stat.S_IFREG | 0o755, (SCRIPTS / source).read_bytes())
    for name, text in ACCOUNTS.items():
        made[name] = (stat.S_IFREG | 0o644, text.encode())
    modules = modules_in_order(root)
    for name, content in modules.items():
        made[f"lib/modules/{name}"] = (stat.S_IFREG | 0o644, content)
    made["lib/modules/order"] = (stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in modules).encode())
    return made


def archive(files: Entries) -> bytes:
    """Return the entries as a gzipped archive in the kernel's format (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = bytearray()

    def put(number: int, name: str, mode: int, content: bytes) -> None:
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        out.extend(bytes(-len(out) % 4) + content)
        out.extend(bytes(-len(out) % 4))

    for number, (name, (mode, content)) in enumerate(sorted(files.items(), key=lambda item: (item[0].count("/"), item[0])), start=1):
        put(number, name, mode, content)
    put(0, "TRAILER!!!", 0, b"")
    return gzip.compress(bytes(out), 6, mtime=0)


def kernel(root: Path) -> bytes:
    """Return the one kernel below `root`."""
    found = sorted((root / "boot").glob("vmlinuz-*"))
    if len(found) != 1:
        raise OSError(f"expected one kernel in {root / 'boot'}, found {len(found)}")
    return found[0].read_bytes()


def build(root: Path, target: Path) -> None:
    """Write `target` from the packages below `root`."""
    fresh = target.with_suffix(".new")
    fresh.write_bytes(archive(entries(root)))
    os.replace(fresh, target)
