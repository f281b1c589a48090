"""The guest images, booted."""

import os
import re
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.image import build, disk, initrd, stub

BOOT_S = 120


class Guest:
    """A QEMU on an image, with its serial console and its monitor."""

    def __init__(self, image: Path, kind: str, folder: Path, memory_mib: int) -> None:
        monitor = folder / "monitor"
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-machine", "pc"]
        command += ["-m", str(memory_mib), "-serial", "stdio", "-drive", f"file={image},format={kind},if=virtio"]
        command += ["-monitor", f"unix:{monitor},server,nowait"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        self._monitor = monitor
        self.text = ""

    def until(self, pattern: str) -> re.Match[str]:
        """Read the console until `pattern` is there; fail with what was read."""
        end = time.monotonic() + BOOT_S
        assert self.process.stdout is not None
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, self.text
            if select.select([self.process.stdout], [], [], 1)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, self.text
                self.text += data.decode(errors="replace")
        return found

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self._monitor))
            monitor.sendall(b"system_powerdown\n")
            assert self.process.wait(BOOT_S) == 0

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[list[Guest]]:
    started: list[Guest] = []
    yield started
    for guest in started:
        guest.end()


def test_the_tiny_guest_boots_keeps_its_files_and_obeys_the_power_button(guests: list[Guest], tmp_path: Path) -> None:
    own = tmp_path / "disk.qcow2"
    shutil.copy(build.ensure()[0], own)
    first = Guest(own, "qcow2", tmp_path, 128)
    guests.append(first)
    first.until(r"@kt disk device=/dev/vda2 boots=1 ")
    first.until(r"@kt ready ")
    first.type("echo 'still'' here' > /persist/note; sync; echo writ''ten")
    first.until(r"written")
    first.press_power_button()
    second = Guest(own, "qcow2", tmp_path, 128)
    guests.append(second)
    second.until(r"@kt disk device=/dev/vda2 boots=2 ")
    second.until(r"@kt ready ")
    second.type("cat /persist/note")
    second.until(r"still here")


def test_the_boot_sector_says_ready_ticks_and_answers(guests: list[Guest], tmp_path: Path) -> None:
    guest = Guest(stub.write(tmp_path / "stub.raw"), "raw", tmp_path, 16)
    guests.append(guest)
    guest.until(r"@kt ready stub")
    guest.until(r"@tick 0003")
    guest.type("Z")
    guest.until(r"Z")


def test_the_boot_sector_is_what_its_source_says(tmp_path: Path) -> None:
    code, made = stub.CODE, tmp_path / "stub.bin"
    subprocess.run(["as", "--32", "-o", tmp_path / "stub.o", code.with_name("stub.s")], check=True)
    link = ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-e", "start"]
    subprocess.run([*link, "-o", made, tmp_path / "stub.o"], check=True)
    assert made.read_bytes() == code.read_bytes()


def test_an_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    entries: initrd.Entries = {
        "bin": (0o040755, b""),
        "bin/program": (0o100755, b"#!/bin/sh\n"),
        "init": (0o120777, b"bin/program"),
        "odd": (0o100644, b"12345"),
    }
    import gzip

    data = gzip.decompress(initrd.archive(entries))
    names, at = [], 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * number : at + 14 + 8 * number], 16) for number in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        start = at + (110 + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            break
        assert entries[name] == (fields[1], data[start : start + fields[6]])
        names.append(name)
        at = start + (fields[6] + 3) // 4 * 4
    assert sorted(names) == sorted(entries)


def test_a_boot_record_lists_its_partitions() -> None:
    record = disk.boot_record(b"\x90" * 512, disk.Partition(1, 32, 0x0E, is_active=True), disk.Partition(33, 8, 0x83))
    assert len(record) == 512
    assert record[510:] == b"\x55\xaa"
    assert record[446] == 0x80
    assert struct.unpack_from("<II", record, 446 + 8) == (2048, 65536)
    assert struct.unpack_from("<II", record, 462 + 8) == (33 * 2048, 16384)
