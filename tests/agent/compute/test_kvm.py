"""How guests run is decided by booting one, never by what is there, and asked once a boot."""

import subprocess
from pathlib import Path

import pytest

from agent.compute import kvm
from agent.compute.kvm import Virt

EMULATOR = "qemu-system-x86_64"


async def test_the_probe_guest_runs_to_its_end_where_processors_work() -> None:
    passed, said = await kvm.boot(EMULATOR, "tcg", "qemu64")
    assert passed, said


async def test_a_processor_without_long_mode_fails_the_probe_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "PROBE_LIMIT_S", 0.5)
    passed, said = await kvm.boot(EMULATOR, "tcg", "qemu32")
    assert not passed
    assert "R" in said, "real mode alone proves nothing"


async def test_no_device_and_a_device_that_is_none_are_named(tmp_path: Path) -> None:
    missing = await kvm.probe(EMULATOR, str(tmp_path / "kvm"))
    assert missing.kind == "qemu" and "No such file" in missing.reason
    (tmp_path / "kvm").touch()
    empty = await kvm.probe(EMULATOR, str(tmp_path / "kvm"))
    assert empty.kind == "qemu" and "does not answer" in empty.reason


async def test_the_answer_is_kept_for_this_boot(tmp_path: Path) -> None:
    cache = tmp_path / "virt.json"
    first = await kvm.choose("auto", "boot 1", cache, EMULATOR, str(tmp_path / "none"))
    assert await kvm.choose("auto", "boot 1", cache, EMULATOR, str(tmp_path / "another")) == first
    second = await kvm.choose("auto", "boot 2", cache, EMULATOR, str(tmp_path / "another"))
    assert "another" in second.reason and second != first


async def test_what_is_configured_is_obeyed_and_a_vain_wish_for_kvm_is_told(tmp_path: Path) -> None:
    cache, device = tmp_path / "virt.json", str(tmp_path / "none")
    assert await kvm.choose("qemu", "boot", cache, EMULATOR, device) == Virt("qemu", "configured")
    wished = await kvm.choose("kvm", "boot", cache, EMULATOR, device)
    assert (wished.kind, wished.as_wanted) == ("kvm", False)


@pytest.mark.parametrize("source", [kvm.PROBE.with_suffix(".s"), Path(__file__).parent / "stub.s"])
def test_the_binary_beside_each_source_is_made_of_it(source: Path, tmp_path: Path) -> None:
    assembled, linked = tmp_path / "made.o", tmp_path / "made.bin"
    try:
        subprocess.run(["as", "--64", "-o", assembled, source], check=True)
    except FileNotFoundError:
        pytest.skip("there is no assembler on this machine")
    subprocess.run(["ld", "-m", "elf_x86_64", "-Ttext", "0x7c00", "--oformat", "binary", "-o", linked, assembled], check=True)
    assert linked.read_bytes() == source.with_suffix(".bin").read_bytes()
    assert len(linked.read_bytes()) == 512
