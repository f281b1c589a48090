"""What the agent relies on of a hypervisor, proven of libvirt with QEMU and of its twin alike."""

import asyncio
import signal
from contextlib import closing, suppress
from pathlib import Path

import libvirt
import pytest

from agent.compute.driver import Definition
from agent.compute.fake import FakeHypervisor
from kumo.errors import NotFound, Unavailable
from tests.agent.compute.conftest import Bench, running_bench
from tests.libvirt_host import LibvirtHost


async def started(bench: Bench) -> Definition:
    definition = bench.definition()
    await bench.hypervisor.define(definition)
    await bench.hypervisor.start(definition)
    await bench.hypervisor.resume(definition.uid)
    return definition


async def test_what_was_defined_is_found_with_its_owner(bench: Bench) -> None:
    definition = bench.definition(generation=7, epoch=(2, 5))
    assert await bench.hypervisor.look(definition.uid) is None
    await bench.hypervisor.define(definition)
    domain = await bench.hypervisor.look(definition.uid)
    assert domain is not None
    assert (domain.generation, domain.epoch, domain.process) == (7, (2, 5), None)
    assert domain.digest == bench.hypervisor.digest_of(definition)
    assert await bench.hypervisor.list_uids() == [definition.uid]


async def test_a_definition_that_differs_has_another_digest(bench: Bench) -> None:
    definition = bench.definition()
    other = bench.definition(definition.uid, memory_mib=32, project_uid=definition.project_uid)
    assert bench.hypervisor.digest_of(definition) != bench.hypervisor.digest_of(other)


async def test_a_server_waits_after_its_start_and_runs_when_resumed(bench: Bench) -> None:
    definition = bench.definition()
    await bench.hypervisor.define(definition)
    await bench.hypervisor.start(definition)
    waiting = await bench.running(definition.uid)
    assert waiting.paused and waiting.virt_type == "qemu"
    await bench.hypervisor.start(definition)
    await bench.hypervisor.resume(definition.uid)
    domain = await bench.running(definition.uid)
    assert not domain.paused and domain.process == waiting.process
    await bench.printed(definition.uid, b"stub ready")
    assert definition.uid in bench.changes


async def test_what_a_running_server_takes_is_told_without_asking_it(bench: Bench) -> None:
    definition = await started(bench)
    resting = bench.definition()
    await bench.hypervisor.define(resting)
    await bench.printed(definition.uid, b"stub ready")

    async def takes() -> bool:
        return any(usage.uid == definition.uid and usage.cpu_s > 0 for usage in await bench.hypervisor.usage())

    await bench.until("the server took processor time", takes)
    (usage,) = await bench.hypervisor.usage()
    assert usage.memory_bytes > 1 << 20
    (disk,) = usage.disks
    assert disk.read_bytes == 512 * disk.read_count > 0  # its boot sector


async def test_a_redefined_server_keeps_its_process(bench: Bench) -> None:
    definition = await started(bench)
    before = await bench.running(definition.uid)
    other = Definition(**(definition.__dict__ | {"memory_mib": 32, "generation": 2}))
    await bench.hypervisor.define(other)
    after = await bench.running(definition.uid)
    assert after.process == before.process
    assert (after.generation, after.digest) == (2, bench.hypervisor.digest_of(other))


async def test_a_guest_that_is_asked_to_stop_switches_itself_off(bench: Bench) -> None:
    definition = await started(bench)
    await bench.printed(definition.uid, b"stub ready")
    await bench.hypervisor.ask_to_stop(definition.uid)

    async def off() -> bool:
        domain = await bench.hypervisor.look(definition.uid)
        return domain is not None and domain.process is None

    await bench.until("the guest is off", off)
    await bench.printed(definition.uid, b"stub off")


async def test_power_is_cut_at_once_and_twice_does_no_harm(bench: Bench) -> None:
    definition = await started(bench)
    process = (await bench.running(definition.uid)).process
    await bench.hypervisor.cut_power(definition.uid)
    domain = await bench.hypervisor.look(definition.uid)
    assert domain is not None and domain.process is None
    assert process is not None and bench.processes.is_gone(process)
    await bench.hypervisor.cut_power(definition.uid)


async def test_a_process_that_dies_is_noticed_and_leaves_its_definition(bench: Bench) -> None:
    definition = await started(bench)
    first = (await bench.running(definition.uid)).process
    bench.changes.clear()
    await bench.end_guest(definition.uid)

    async def told() -> bool:
        domain = await bench.hypervisor.look(definition.uid)
        return definition.uid in bench.changes and domain is not None and domain.process is None

    await bench.until("its end is told", told)
    await bench.hypervisor.start(definition)
    second = (await bench.running(definition.uid)).process
    assert second is not None and second != first


async def test_nothing_is_left_of_what_was_undefined(bench: Bench) -> None:
    definition = bench.definition()
    await bench.hypervisor.define(definition)
    await bench.hypervisor.undefine(definition.uid)
    await bench.hypervisor.undefine(definition.uid)
    assert await bench.hypervisor.look(definition.uid) is None
    with pytest.raises(NotFound):
        await bench.hypervisor.start(definition)


async def test_nothing_is_started_by_the_hypervisor_itself(bench: Bench) -> None:
    definition = bench.definition()
    await bench.hypervisor.define(definition)
    assert await bench.hypervisor.forbid_autostart() == []
    if bench.host is not None:
        with closing(libvirt.open(bench.host.uri)) as connection:
            domain = connection.lookupByUUIDString(definition.uid)
            domain.setAutostart(True)
            assert await bench.hypervisor.forbid_autostart() == [definition.uid]
            assert not domain.autostart()


async def test_what_is_typed_reaches_the_guest(bench: Bench) -> None:
    definition = await started(bench)
    await bench.printed(definition.uid, b"stub ready")
    console = await bench.hypervisor.open_console(definition.uid)
    await console.send(b"q")
    await bench.printed(definition.uid, b"q")
    await console.send(b"X")
    await bench.printed(definition.uid, b"stub off")

    async def ended() -> bool:
        return console.closed or not await still_takes(console)

    async def still_takes(open_console: object) -> bool:
        await console.send(b"a")
        return not console.closed

    await bench.until("the way in is closed", ended)


async def test_a_hypervisor_keeps_its_servers_while_the_agent_is_away(bench: Bench, tmp_path: Path) -> None:
    definition = await started(bench)
    process = (await bench.running(definition.uid)).process
    async with running_bench("again", bench.host, tmp_path) as again:
        assert (await again.running(definition.uid)).process == process


async def test_a_fake_guest_ends_with_its_boot(tmp_path: Path) -> None:
    first = FakeHypervisor(tmp_path / "fake.json", "boot 1", tmp_path)
    bench = Bench(first, None, tmp_path, None, tmp_path)  # type: ignore[arg-type]  # no processes are looked at
    definition = await started(bench)
    domain = await FakeHypervisor(tmp_path / "fake.json", "boot 2", tmp_path).look(definition.uid)
    assert domain is not None and domain.process is None


async def test_the_agent_finds_libvirt_again_when_it_comes_back(libvirt_host: LibvirtHost, tmp_path: Path) -> None:
    async with running_bench("libvirt", libvirt_host, tmp_path) as bench:
        definition = await started(bench)
        process = (await bench.running(definition.uid)).process
        bench.changes.clear()
        libvirt_host.kill_libvirtd()

        async def back() -> bool:
            return bench.changes.count(None) >= 2

        await bench.until("libvirt is back", back)
        assert (await bench.running(definition.uid)).process == process
        await bench.hypervisor.cut_power(definition.uid)


async def test_a_process_that_is_being_set_up_is_told_apart_and_ended_by_a_libvirtd_that_comes_back(
    libvirt_host: LibvirtHost, tmp_path: Path
) -> None:
    async with running_bench("libvirt", libvirt_host, tmp_path) as bench:
        definition = bench.definition()
        await bench.hypervisor.define(definition)
        starting = asyncio.ensure_future(bench.hypervisor.start(definition))
        pid = await executed(libvirt_host, definition.uid)
        libvirt_host.kill(pid, signal.SIGSTOP)
        bench.changes.clear()
        libvirt_host.kill_libvirtd()
        with pytest.raises(Unavailable):
            await starting

        async def back() -> bool:
            return bench.changes.count(None) >= 2

        await bench.until("libvirt is back", back)
        domain = await bench.running(definition.uid)
        assert domain.process is not None and domain.process.pid == pid
        assert domain.starting and not domain.paused and not domain.runs
        libvirt_host.kill(pid, signal.SIGCONT)

        async def ended() -> bool:
            seen = await bench.hypervisor.look(definition.uid)
            return seen is not None and seen.process is None

        await bench.until("the process is given up", ended)


async def executed(host: LibvirtHost, uid: str) -> int:
    """Return the pid that libvirt wrote down for a server, once QEMU runs under it."""
    async with asyncio.timeout(30):
        while True:
            with suppress(FileNotFoundError, ValueError, ProcessLookupError):
                pid = int((host.run_directory / "qemu" / f"{uid}.pid").read_text())
                if (host.proc / str(pid) / "comm").read_text().startswith("qemu-system"):
                    return pid
            await asyncio.sleep(0.001)


async def test_a_hung_guest_holds_up_nobody_and_its_power_can_be_cut(libvirt_host: LibvirtHost, tmp_path: Path) -> None:
    async with running_bench("libvirt", libvirt_host, tmp_path) as bench:
        hung, other = await started(bench), await started(bench)
        process = (await bench.running(hung.uid)).process
        assert process is not None
        libvirt_host.kill(process.pid, signal.SIGSTOP)
        cutting = asyncio.ensure_future(bench.hypervisor.cut_power(hung.uid))
        await bench.hypervisor.cut_power(other.uid)
        # libvirt waits ten seconds for a process to heed a SIGTERM: the hung guest's turn is not over yet.
        assert not cutting.done()
        await bench.hypervisor.start(other)
        await cutting
        assert bench.processes.is_gone(process)
