"""Lays a bootable disk out as files, without root, mount or loop device: boot record, a FAT partition to boot from, an ext4 one to keep."""

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.image.debian import library_path

SECTOR = 512
START_MIB = 1
BOOT_MIB = 32
KEEP_MIB = 32
BOOT_CODE_BYTES = 440
COMMAND_LINE = "console=ttyS0 quiet panic=5 random.trust_cpu=on"
SYSLINUX = f"""DEFAULT kt
PROMPT 0
TIMEOUT 1
LABEL kt
 LINUX /vmlinuz
 INITRD /initrd
 APPEND {COMMAND_LINE}
"""


@dataclass(frozen=True)
class Partition:
    """One entry of the boot record; sizes in MiB."""

    start: int
    size: int
    kind: int
    is_active: bool = False

    def entry(self) -> bytes:
        # Heads and cylinders are filled with their largest values: every boot loader since the nineties reads the sector numbers.
        sectors = (1 << 20) // SECTOR
        return struct.pack(
            "<B3sB3sII",
            0x80 if self.is_active else 0,
            b"\xfe\xff\xff",
            self.kind,
            b"\xfe\xff\xff",
            self.start * sectors,
            self.size * sectors,
        )


def boot_record(code: bytes, *partitions: Partition) -> bytes:
    """Return the first sector: code, disk id, four entries, signature."""
    table = b"".join(partition.entry() for partition in partitions).ljust(64, b"\0")
    return code[:BOOT_CODE_BYTES].ljust(BOOT_CODE_BYTES, b"\0") + b"OMUK\0\0" + table + b"\x55\xaa"


def build(root: Path, kernel: bytes, initrd: Path, scratch: Path, target: Path) -> None:
    """Write `target`, a qcow2 image, with tools from the packages below `root`."""
    raw, environment = scratch / "disk.raw", library_path(root) | {"MTOOLS_SKIP_CHECK": "1"}
    boot = Partition(START_MIB, BOOT_MIB, 0x0E, is_active=True)
    keep = Partition(START_MIB + BOOT_MIB, KEEP_MIB, 0x83)

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise OSError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")

    with raw.open("wb") as file:
        file.truncate((keep.start + keep.size) << 20)
        code = root / "usr" / "lib" / "syslinux" / "mbr" / "mbr.bin"
        file.write(boot_record(code.read_bytes(), boot, keep))
    at = f"{raw}@@{boot.start}M"
    sectors, hidden = (boot.size << 20) // SECTOR, (boot.start << 20) // SECTOR
    run("mformat", "-i", at, "-T", str(sectors), "-h", "64", "-s", "32", "-H", str(hidden), "-v", "KTBOOT", "-N", "4b54424f", "::")
    (scratch / "vmlinuz").write_bytes(kernel)
    (scratch / "syslinux.cfg").write_text(SYSLINUX)
    for source, name in ((scratch / "vmlinuz", "vmlinuz"), (initrd, "initrd"), (scratch / "syslinux.cfg", "syslinux.cfg")):
        run("mcopy", "-i", at, source, f"::{name}")
    run("syslinux", "--install", "--offset", str(boot.start << 20), raw)
    features = ["-J", "size=1", "-L", "KTROOT", "-E", f"offset={keep.start << 20},nodiscard,root_owner=0:0"]
    run("mke2fs", "-q", "-F", "-t", "ext4", *features, raw, f"{keep.size}M")
    run("qemu-img", "convert", "-O", "qcow2", raw, target)
