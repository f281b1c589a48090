"""What is taken as an image and what is refused, by the bytes alone."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.storage.inspect import Read, Refused, inspect, judge_check, judge_info
from tests.agent.storage.files import qcow2_file

MIB = 1 << 20
LIMIT = 1 << 40


def reader(content: bytes) -> Read:
    return lambda offset, length: content[offset : offset + length]


def small_qcow2(virtual_bytes: int = 4 * MIB, cluster_bits: int = 12) -> bytes:
    """Return a valid qcow2 of version 3 with one cluster of data: header, table, table of clusters, counts, data."""
    cluster = 1 << cluster_bits
    l1_entries = -(-virtual_bytes // (cluster * cluster // 8))
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, cluster_bits, virtual_bytes, 0, l1_entries, cluster, 3 * cluster, 1, 0, 0)
    header += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    parts = [header, struct.pack(">Q", 1 << 63 | 2 * cluster), struct.pack(">Q", 1 << 63 | 5 * cluster), struct.pack(">Q", 4 * cluster)]
    parts += [struct.pack(">6H", *[1] * 6), b"data"]
    return b"".join(part.ljust(cluster, b"\0") for part in parts)


VALID = small_qcow2()


@given(
    at=st.lists(st.tuples(st.integers(0, 5 * 4096), st.binary(min_size=1, max_size=16)), max_size=6),
    length=st.one_of(st.just(len(VALID)), st.integers(0, len(VALID))),
)
@settings(max_examples=400, deadline=1000)
def test_no_bytes_crash_it(at: list[tuple[int, bytes]], length: int) -> None:
    content = bytearray(VALID)
    for offset, data in at:
        content[offset : offset + len(data)] = data
    content = content[:length]
    for file_format in ("qcow2", "raw"):
        try:
            assert 0 <= inspect(file_format, reader(bytes(content)), len(content), LIMIT) <= LIMIT
        except Refused as refused:
            assert refused.reason.isupper()
            assert refused.message


@given(st.binary(max_size=4096))
def test_what_is_no_known_format_is_raw(content: bytes) -> None:
    size = inspect("raw", reader(b"x" + content), len(content) + 1, LIMIT)
    assert size % 512 == 0
    assert len(content) < size <= len(content) + 512


def patched(offset: int, form: str, value: int) -> bytes:
    content = bytearray(VALID)
    struct.pack_into(form, content, offset, value)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (patched(0, ">I", 0), "FORMAT_MISMATCH"),
        (patched(4, ">I", 4), "UNSUPPORTED"),
        (patched(8, ">Q", 200), "BACKING_FILE"),
        (patched(16, ">I", 9), "BACKING_FILE"),
        (patched(20, ">I", 40), "CORRUPT"),
        (patched(24, ">Q", 1 << 60), "TOO_LARGE"),
        (patched(24, ">Q", 0), "EMPTY"),
        (patched(32, ">I", 2), "ENCRYPTED"),
        (patched(36, ">I", 0), "CORRUPT"),
        (patched(36, ">I", 0xFFFFFFFF), "CORRUPT"),
        (patched(36, ">I", 1 << 20), "TRUNCATED"),
        (patched(40, ">Q", 1 << 40), "TRUNCATED"),
        (patched(40, ">Q", 4097), "CORRUPT"),
        (patched(48, ">Q", 1 << 50), "TRUNCATED"),
        (patched(56, ">I", 0), "CORRUPT"),
        (patched(60, ">I", 1), "SNAPSHOTS"),
        (patched(72, ">Q", 1), "DIRTY"),
        (patched(72, ">Q", 2), "CORRUPT"),
        (patched(72, ">Q", 4), "DATA_FILE"),
        (patched(72, ">Q", 1 << 20), "UNSUPPORTED"),
        (patched(96, ">I", 9), "CORRUPT"),
        (patched(100, ">I", 1 << 20), "CORRUPT"),
        (patched(104, ">I", 0xE2792ACA), "BACKING_FILE"),
        (patched(104, ">I", 0x44415441), "DATA_FILE"),
        (patched(104, ">I", 0x0537BE77), "ENCRYPTED"),
        (patched(104, ">Q", 0x12345678FFFFFFFF), "CORRUPT"),
        (patched(4096, ">Q", 1 << 63 | 1 << 40), "TRUNCATED"),
        (patched(4096, ">Q", 1 << 63 | 2 * 4096 + 512), "CORRUPT"),
        (patched(4096 + 8, ">Q", 1 << 63 | 2 * 4096), "CORRUPT"),
        (patched(8192, ">Q", 1 << 63 | 1 << 40), "TRUNCATED"),
        (patched(8192, ">Q", 1 << 62 | 1 << 40), "TRUNCATED"),
        (patched(8192, ">Q", 1 << 63 | 5 * 4096 + 512), "CORRUPT"),
        (VALID[:60], "TRUNCATED"),
        (VALID[:90], "TRUNCATED"),
        (VALID[: 5 * 4096], "TRUNCATED"),
    ],
)
def test_each_lie_has_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        inspect("qcow2", reader(content), len(content), LIMIT)
    assert refused.value.reason == reason


def test_bytes_that_stand_for_many_parts_of_a_disk_are_refused() -> None:
    content = bytearray(VALID)
    for entry in range(100):
        struct.pack_into(">Q", content, 8192 + 8 * entry, 1 << 63 | 5 * 4096)
    with pytest.raises(Refused, match="several parts"):
        inspect("qcow2", reader(bytes(content)), len(content), LIMIT)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-c",
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o extended_l2=on",
        "-o preallocation=metadata",
        "-c -o compression_type=zstd",
        "-o lazy_refcounts=on",
    ],
)
async def test_what_qemu_makes_is_taken(tmp_path: Path, options: str) -> None:
    path = await qcow2_file(tmp_path, 16 * MIB + 512, {0: b"first", 5 * MIB: b"x" * 100_000, 16 * MIB + 500: b"last"}, *options.split())
    content = path.read_bytes()
    assert inspect("qcow2", reader(content), len(content), LIMIT) == 16 * MIB + 512


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda info: info.update(format="raw"), "FORMAT_MISMATCH"),
        (lambda info: info.update({"backing-filename": "json:{}"}), "BACKING_FILE"),
        (lambda info: info["format-specific"]["data"].update({"data-file": "x"}), "DATA_FILE"),
        (lambda info: info.update(encrypted=True), "ENCRYPTED"),
        (lambda info: info.update(snapshots=[{}]), "SNAPSHOTS"),
        (lambda info: info["format-specific"]["data"].update(corrupt=True), "CORRUPT"),
        (lambda info: info.update({"dirty-flag": True}), "DIRTY"),
        (lambda info: info.update({"virtual-size": 7}), "CORRUPT"),
    ],
)
def test_what_qemu_says_is_heard(change: Callable[[dict[str, object]], None], reason: str) -> None:
    info: dict[str, object] = {"format": "qcow2", "virtual-size": 512, "format-specific": {"data": {}}}
    judge_info("qcow2", 512, info)
    change(info)
    with pytest.raises(Refused) as refused:
        judge_info("qcow2", 512, info)
    assert refused.value.reason == reason


def test_clusters_that_nobody_uses_are_no_harm() -> None:
    judge_check({"leaks": 3, "check-errors": 0})
    with pytest.raises(Refused, match="2 corruptions"):
        judge_check({"corruptions": 2})
