"""Decides how guests run, kvm or qemu (emulated), by booting one: that /dev/kvm is there, and answers, proves nothing.

The guest (agent/compute/probe/probe64.s) enters 64-bit mode and takes an interrupt; where virtualisation is broken, it hangs or
QEMU ends. The answer is kept for as long as neither the boot nor QEMU changes.
"""

import asyncio
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from kumo.log import get_logger

log = get_logger(__name__)

Wanted = Literal["auto", "kvm", "qemu"]

PROBE = Path(__file__).parent / "probe" / "probe64.bin"
PROBE_LIMIT_S = 3.0
_VERSION_LIMIT_S = 10.0
_DEVICE = "/dev/kvm"
_KVM_GET_API_VERSION = 0xAE00
_API_VERSION = 12
_EXIT_PORT = 0xF4
_PASSED = "RLIK"


@dataclass(frozen=True)
class Virt:
    """How guests run, why, and whether that is what was configured."""

    kind: str
    reason: str
    as_wanted: bool = True


async def choose(wanted: Wanted, boot_id: str, cache: Path, emulator: str = "qemu-system-x86_64", device: str = _DEVICE) -> Virt:
    """Return how guests run. `cache` is the file in which the answer is kept."""
    if wanted == "qemu":
        return Virt("qemu", "configured")
    key = [boot_id, await _version(emulator)]
    found = await asyncio.to_thread(_read, cache, key)
    if found is None:
        found = await probe(emulator, device)
        await asyncio.to_thread(_write, cache, key, found)
        log.info("virtualisation probed", kind=found.kind, reason=found.reason)
    if wanted == "kvm":
        return Virt("kvm", f"configured; the probe said: {found.reason}", as_wanted=found.kind == "kvm")
    return found


async def probe(emulator: str, device: str = _DEVICE) -> Virt:
    """Boot the probe guest under KVM and return what came of it."""
    if why := await asyncio.to_thread(_device_trouble, device):
        return Virt("qemu", why)
    passed, said = await boot(emulator, "kvm", "host")
    return Virt("kvm", "the probe guest ran") if passed else Virt("qemu", f"the probe guest failed under kvm: {said}")


async def boot(emulator: str, accelerator: str, cpu: str) -> tuple[bool, str]:
    """Return whether the probe guest ran to its end, and what was seen; never takes longer than the limit."""
    drive = f"file={str(PROBE).replace(',', ',,')},format=raw,if=ide,snapshot=on"
    command = (
        *(emulator, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-accel", accelerator, "-cpu", cpu, "-m", "16", "-machine", "pc", "-drive", drive),
        *("-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=4"),
    )
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        return False, f"{emulator}: {error.strerror}"
    timed_out = False
    output = bytearray()
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            if process.stdout is not None:
                while piece := await process.stdout.read(4096):
                    output += piece
            await process.wait()
    except TimeoutError:
        timed_out = True
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = " ".join(output.decode(errors="replace").split())[:200]
    if timed_out:
        return False, f"it hung for {PROBE_LIMIT_S:g} s after {text!r}"
    return process.returncode == 1 and text.endswith(_PASSED), f"QEMU ended with {process.returncode} after {text!r}"


async def _version(emulator: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            emulator, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(_VERSION_LIMIT_S):
            output, _ = await process.communicate()
    except (OSError, TimeoutError):
        return ""
    return output.decode(errors="replace").partition("\n")[0]


def _device_trouble(device: str) -> str:
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{device}: {error.strerror}"
    try:
        version = fcntl.ioctl(descriptor, _KVM_GET_API_VERSION)
    except OSError as error:
        return f"{device} does not answer: {error.strerror}"
    finally:
        os.close(descriptor)
    return "" if version == _API_VERSION else f"{device} speaks version {version}, not {_API_VERSION}"


def _read(cache: Path, key: list[str]) -> Virt | None:
    try:
        kept = json.loads(cache.read_bytes())
        return Virt(**kept["virt"]) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(cache: Path, key: list[str], virt: Virt) -> None:
    fresh = cache.with_name(f".{cache.name}.new")
    try:
        fresh.write_text(json.dumps({"key": key, "virt": asdict(virt)}))
        fresh.rename(cache)
    except OSError as error:
        log.warning("answer not kept: the next start probes again", file=cache, why=str(error))
        fresh.unlink(missing_ok=True)
