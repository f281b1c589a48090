"""Decides whether the file of an image is what it was declared to be, and may be taken: pure over its bytes and what qemu-img says.

It runs inside the jail too, as a program of its own: so the standard library alone.
"""

import json
import os
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Read = Callable[[int, int], bytes]

SECTOR_BYTES = 512
_MAX_TABLE_BYTES = 32 << 20
_MAX_REFCOUNT_TABLE_BYTES = 8 << 20
_QCOW2 = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_3 = struct.Struct(">QQQII")
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
# What other formats begin with, at which offset.
_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, _QCOW2, "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"PK\x03\x04", "zip"),
)


class Refused(Exception):
    """The image is not taken, now or ever; `reason` is one constant word, `message` a sentence with the values in it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


def inspect(file_format: str, read: Read, file_bytes: int, max_virtual_bytes: int) -> int:
    """Return the size of the disk in the file, in bytes. `read` returns fewer bytes than asked for at the end. Raises Refused."""
    virtual_bytes = _inspect_raw(read, file_bytes) if file_format == "raw" else _Qcow2(read, file_bytes).inspect(max_virtual_bytes)
    if virtual_bytes > max_virtual_bytes:
        raise _too_large(virtual_bytes, max_virtual_bytes)
    return virtual_bytes


def _too_large(virtual_bytes: int, max_virtual_bytes: int) -> Refused:
    return Refused("TOO_LARGE", f"the disk is {virtual_bytes} bytes large, at most {max_virtual_bytes} are taken")


def _inspect_raw(read: Read, file_bytes: int) -> int:
    if (found := format_of(read, file_bytes)) is not None:
        raise Refused("FORMAT_MISMATCH", f"the file was declared as raw and is {found}")
    return -(-file_bytes // SECTOR_BYTES) * SECTOR_BYTES


def format_of(read: Read, file_bytes: int) -> str | None:
    """Return which known format the bytes are in, None if in none."""
    for offset, magic, name in _MAGICS:
        if read(offset, len(magic)) == magic:
            return name
    if file_bytes > SECTOR_BYTES and read(file_bytes - SECTOR_BYTES, 8) == b"conectix":
        return "vhd"
    return None


@dataclass(frozen=True)
class _Header:
    version: int
    backing_offset: int
    backing_bytes: int
    cluster_bits: int
    virtual_bytes: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    incompatible: int = 0
    refcount_order: int = 4
    header_bytes: int = 72


class _Qcow2:
    """Source: docs/interop/qcow2.txt of QEMU."""

    def __init__(self, read: Read, file_bytes: int) -> None:
        self._read = read
        self._file_bytes = file_bytes

    def inspect(self, max_virtual_bytes: int) -> int:
        header = self._header()
        self._check_features(header)
        if header.virtual_bytes > max_virtual_bytes:
            raise _too_large(header.virtual_bytes, max_virtual_bytes)
        self._check_extensions(header)
        self._check_tables(header)
        _Clusters(self._read, self._file_bytes, header).check()
        return -(-header.virtual_bytes // SECTOR_BYTES) * SECTOR_BYTES

    def _header(self) -> _Header:
        data = self._read(0, _HEADER.size + _HEADER_3.size)
        if data[:4] != _QCOW2:
            raise Refused("FORMAT_MISMATCH", f"the file was declared as qcow2 and is {format_of(self._read, self._file_bytes) or 'not'}")
        if len(data) < _HEADER.size:
            raise Refused("TRUNCATED", f"the file ends inside its header, after {len(data)} bytes")
        _, version, backing_offset, backing_bytes, cluster_bits, size, crypt, l1, l1_offset, *rest = _HEADER.unpack_from(data)
        refcount_offset, refcount_clusters, snapshots, _ = rest
        if version not in (2, 3):
            raise Refused("UNSUPPORTED", f"the file is qcow2 of version {version}; 2 and 3 are taken")
        fields = (version, backing_offset, backing_bytes, cluster_bits, size, crypt, l1, l1_offset, refcount_offset, refcount_clusters)
        if version == 2:
            return _Header(*fields, snapshots)
        if len(data) < _HEADER.size + _HEADER_3.size:
            raise Refused("TRUNCATED", f"the file ends inside its header, after {len(data)} bytes")
        incompatible, _, _, refcount_order, header_bytes = _HEADER_3.unpack_from(data, _HEADER.size)
        return _Header(*fields, snapshots, incompatible, refcount_order, header_bytes)

    def _check_features(self, header: _Header) -> None:
        if header.backing_offset or header.backing_bytes:
            raise Refused("BACKING_FILE", "the image refers to a backing file")
        if header.incompatible & _DATA_FILE:
            raise Refused("DATA_FILE", "the image keeps its data in another file")
        if header.crypt_method:
            raise Refused("ENCRYPTED", f"the image is encrypted, by method {header.crypt_method}")
        if header.incompatible & _CORRUPT:
            raise Refused("CORRUPT", "the image is marked as corrupt")
        if header.incompatible & _DIRTY:
            raise Refused("DIRTY", "the image was not closed; `qemu-img check -r all` repairs it")
        if unknown := header.incompatible & ~(_COMPRESSION | _EXTENDED_L2):
            raise Refused("UNSUPPORTED", f"the image has features that are not known: {unknown:#x}")
        if header.snapshots:
            raise Refused("SNAPSHOTS", f"the image holds {header.snapshots} snapshots; convert it into one without")
        if not 9 <= header.cluster_bits <= 21 or header.refcount_order > 6:
            shape = f"clusters of 2^{header.cluster_bits} bytes and counts of 2^{header.refcount_order} bits"
            raise Refused("CORRUPT", f"there are no {shape}")
        least = 72 if header.version == 2 else 104
        if not least <= header.header_bytes <= 1 << header.cluster_bits or header.header_bytes % 8:
            raise Refused("CORRUPT", f"a header of {header.header_bytes} bytes does not exist")
        if not header.virtual_bytes:
            raise Refused("EMPTY", "the disk has no bytes")

    def _check_extensions(self, header: _Header) -> None:
        offset, end = header.header_bytes, 1 << header.cluster_bits
        while offset + 8 <= end:
            data = self._read(offset, 8)
            if len(data) < 8:
                raise Refused("TRUNCATED", "the file ends inside its header")
            kind, length = struct.unpack(">II", data)
            match kind:
                case 0:
                    return
                case 0xE2792ACA:
                    raise Refused("BACKING_FILE", "the image names the format of a backing file")
                case 0x44415441:
                    raise Refused("DATA_FILE", "the image names another file for its data")
                case 0x0537BE77:
                    raise Refused("ENCRYPTED", "the image has an encryption header")
                case _:
                    pass
            offset += 8 + -(-length // 8) * 8
        if offset > end:
            raise Refused("CORRUPT", "an extension of the header is larger than its cluster")

    def _check_tables(self, header: _Header) -> None:
        cluster = 1 << header.cluster_bits
        entry_bytes = 16 if header.incompatible & _EXTENDED_L2 else 8
        per_l1 = cluster * (cluster // entry_bytes)
        needed = -(-header.virtual_bytes // per_l1)
        if not needed <= header.l1_entries <= _MAX_TABLE_BYTES // 8:
            raise Refused("CORRUPT", f"a table of {header.l1_entries} entries does not fit a disk of {header.virtual_bytes} bytes")
        refcount_bytes = header.refcount_clusters * cluster
        if not 0 < refcount_bytes <= _MAX_REFCOUNT_TABLE_BYTES:
            raise Refused("CORRUPT", f"a table of counts of {refcount_bytes} bytes does not exist")
        for what, offset, length in (
            ("table of the disk", header.l1_offset, header.l1_entries * 8),
            ("table of counts", header.refcount_offset, refcount_bytes),
        ):
            if offset % cluster or offset < cluster:
                raise Refused("CORRUPT", f"the {what} lies at {offset}")
            if offset + length > self._file_bytes:
                raise Refused("TRUNCATED", f"the {what} ends at {offset + length}, the file at {self._file_bytes}")


class _Clusters:
    """Looks at where every cluster of the disk lies: inside the file, on a boundary, and no bytes used twice."""

    def __init__(self, read: Read, file_bytes: int, header: _Header) -> None:
        self._read = read
        self._file_bytes = file_bytes
        self._header = header
        self._cluster = 1 << header.cluster_bits
        self._words = 2 if header.incompatible & _EXTENDED_L2 else 1
        self._per_table = self._cluster // (8 * self._words)
        self._allocated = 0

    def check(self) -> None:
        header = self._header
        table = struct.unpack(f">{header.l1_entries}Q", self._read(header.l1_offset, header.l1_entries * 8))
        seen: set[int] = set()
        for index, entry in enumerate(table):
            if not entry:
                continue
            offset = entry & _OFFSET_MASK
            if entry & 0x7F000000000001FF or offset % self._cluster or offset in seen:
                raise Refused("CORRUPT", f"entry {index} of the disk's table is {entry:#x}")
            if offset + self._cluster > self._file_bytes:
                raise Refused("TRUNCATED", f"a table at {offset} lies beyond the end of the file at {self._file_bytes}")
            seen.add(offset)
            self._check_table(struct.unpack(f">{self._cluster // 8}Q", self._read(offset, self._cluster)), index * self._per_table)

    def _check_table(self, table: tuple[int, ...], first: int) -> None:
        for index, entry in enumerate(table[:: self._words]):
            if not entry & (_OFFSET_MASK | _COMPRESSED):
                continue
            if entry & _COMPRESSED:
                self._check_compressed(entry)
            else:
                self._check_data(entry & _OFFSET_MASK, (first + index) * self._cluster)

    def _check_compressed(self, entry: int) -> None:
        # Whether its bytes unpack is seen when they are unpacked; what they unpack to is limited then.
        offset = entry & ((1 << (62 - (self._header.cluster_bits - 8))) - 1)
        if offset >= self._file_bytes:
            raise Refused("TRUNCATED", f"data at {offset} lies beyond the end of the file at {self._file_bytes}")

    def _check_data(self, offset: int, guest_offset: int) -> None:
        if offset % self._cluster:
            raise Refused("CORRUPT", f"data at {offset} lies on no boundary of a cluster")
        # The last cluster of the disk may be whole in the disk and cut in the file.
        needed = max(0, min(self._cluster, self._header.virtual_bytes - guest_offset))
        if offset + needed > self._file_bytes:
            raise Refused("TRUNCATED", f"data at {offset} ends beyond the end of the file at {self._file_bytes}")
        self._allocated += 1
        if self._allocated * self._cluster > self._file_bytes:
            raise Refused("CORRUPT", "the image uses the same bytes of its file for several parts of the disk")


def judge_info(file_format: str, virtual_bytes: int, info: Mapping[str, Any]) -> None:
    """Raise Refused unless what `qemu-img info` says agrees with what was found in the bytes."""
    if info.get("format") != file_format:
        raise Refused("FORMAT_MISMATCH", f"the file was declared as {file_format} and is {info.get('format')}")
    if any(key in info for key in ("backing-filename", "full-backing-filename", "backing-filename-format")):
        raise Refused("BACKING_FILE", "the image refers to a backing file")
    specific = info.get("format-specific", {})
    data = specific.get("data", {}) if isinstance(specific, dict) else {}
    if "data-file" in data:
        raise Refused("DATA_FILE", "the image keeps its data in another file")
    if info.get("encrypted") or "encrypt" in data:
        raise Refused("ENCRYPTED", "the image is encrypted")
    if info.get("snapshots"):
        raise Refused("SNAPSHOTS", f"the image holds {len(info['snapshots'])} snapshots; convert it into one without")
    if data.get("corrupt"):
        raise Refused("CORRUPT", "the image is marked as corrupt")
    if info.get("dirty-flag"):
        raise Refused("DIRTY", "the image was not closed; `qemu-img check -r all` repairs it")
    if info.get("virtual-size") != virtual_bytes:
        raise Refused("CORRUPT", f"the size of the disk is {virtual_bytes} or {info.get('virtual-size')} bytes")


def judge_check(report: Mapping[str, Any]) -> None:
    """Raise Refused if `qemu-img check` found more than clusters that nobody uses."""
    found = {key: report.get(key, 0) for key in ("corruptions", "check-errors")}
    if any(found.values()):
        raise Refused("CORRUPT", f"qemu-img check finds {found['corruptions']} corruptions and {found['check-errors']} errors")


def main() -> None:
    """Usage: inspect.py FORMAT FILE MAX_VIRTUAL_BYTES. Prints one JSON object."""
    file_format, path, limit = sys.argv[1:]
    descriptor = os.open(path, os.O_RDONLY)

    def read(offset: int, length: int) -> bytes:
        return os.pread(descriptor, length, offset)

    try:
        print(json.dumps({"virtual_bytes": inspect(file_format, read, os.fstat(descriptor).st_size, int(limit))}))
    except Refused as refused:
        print(json.dumps({"reason": refused.reason, "message": refused.message}))


if __name__ == "__main__":
    main()
