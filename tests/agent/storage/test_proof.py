"""When a process is proven gone, and when it is not."""

import subprocess

from agent.storage.proof import BootGone, ProcessGone, start_ticks_of


def test_a_process_is_gone_when_it_ended_or_its_pid_is_another_s_now() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        ticks = start_ticks_of(process.pid)
        assert ticks is not None
        assert not ProcessGone(process.pid, ticks).holds()
        assert ProcessGone(process.pid, ticks - 1).holds()
        process.kill()
        process.wait()
        assert ProcessGone(process.pid, ticks).holds()


def test_one_that_nobody_waited_for_is_gone() -> None:
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as process:
        ticks = 0
        assert process.stdout is not None
        process.stdout.read()  # it has ended, and is a zombie until the end of the block
        while start_ticks_of(process.pid) is not None:
            ticks = start_ticks_of(process.pid) or ticks
        assert ProcessGone(process.pid, ticks).holds()


def test_another_boot_ended_all_and_an_unknown_one_proves_nothing() -> None:
    assert BootGone("a", "b").holds()
    assert not BootGone("a", "a").holds()
    assert not BootGone("", "b").holds()
    assert not BootGone("a", "").holds()
