"""A guest may print for ever, and guests may come and go for ever: the host's disk does not fill with what they said."""

from pathlib import Path

from agent.compute.driver import FileSource
from agent.compute.libvirt import LibvirtHypervisor
from tests.agent.compute.conftest import Bench, running_bench
from tests.libvirt_host import CONSOLE_BYTES, CONSOLE_PARTS, LibvirtHost

# A boot sector: switch COM1's queue on; wait until the line status at COM1 + 5 has bit 5; send sixteen times an "x"; and again.
CHATTERBOX = bytes.fromhex("bafa03b001ee bafd03 ec a820 74fb b91000 baf803 b078 ee e2fd ebeb").ljust(510, b"\0") + b"\x55\xaa"


def parts(directory: Path, uid: str) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.glob(f"{uid}*")}


async def test_a_guest_that_prints_without_end_fills_so_much_and_no_more(libvirt_host: LibvirtHost, tmp_path: Path) -> None:
    async with running_bench("libvirt", libvirt_host, tmp_path) as bench:
        assert isinstance(bench.hypervisor, LibvirtHypervisor)
        definition = bench.definition()
        uid = definition.uid
        (source,) = (disk.source for disk in definition.disks)
        assert isinstance(source, FileSource)
        with open(source.path, "r+b") as file:  # noqa: ASYNC230  # half a kilobyte
            file.write(CHATTERBOX)
        await bench.hypervisor.define(definition)
        await bench.hypervisor.start(definition)
        await bench.hypervisor.resume(uid)
        # While nobody is attached, QEMU takes its time over what a guest prints.
        console = await bench.hypervisor.open_console(uid)
        sizes, rounds = [0], [0]

        async def has_printed_more_than_is_kept() -> bool:
            found = parts(libvirt_host.consoles, uid)
            assert len(found) <= CONSOLE_PARTS and sum(found.values()) <= CONSOLE_PARTS * CONSOLE_BYTES, found
            size = found.get(f"{uid}.log", 0)
            rounds[0] += size < sizes[0]  # it was moved, and another one begun
            sizes[0] = size
            return rounds[0] > CONSOLE_PARTS

        await bench.until("it printed more than is kept", has_printed_more_than_is_kept, 60)
        await console.close()
        await end(bench, uid)
        assert parts(libvirt_host.log_directory / "qemu", uid) == {}, "nor is anything left of what its QEMU said"


async def end(bench: Bench, uid: str) -> None:
    await bench.hypervisor.cut_power(uid)
    await bench.hypervisor.undefine(uid)
