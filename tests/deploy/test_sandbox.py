"""The namespaces that tests run in end with what was started in them."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.layout import CHECKOUT

SANDBOX = [sys.executable, "-m", "deploy.sandbox"]


def test_the_exit_code_is_the_commands() -> None:
    assert subprocess.run([*SANDBOX, "sh", "-c", "exit 7"], cwd=CHECKOUT, check=False, timeout=60).returncode == 7
    assert subprocess.run([*SANDBOX, "sh", "-c", "kill -9 $$"], cwd=CHECKOUT, check=False, timeout=60).returncode == 128 + 9


def test_loopback_is_up_and_there_is_no_other_link() -> None:
    done = subprocess.run(
        [*SANDBOX, "sh", "-c", "ip -o link; ls /run; ls /sys/class/net"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert "lo: <LOOPBACK,UP" in done.stdout
    assert done.stdout.splitlines()[1:] == ["lock", "lo"]


def test_shared_memory_is_seen_by_nobody_else() -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as outside:
        done = subprocess.run([*SANDBOX, "ls", "/dev/shm"], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == ""
        inside = ["sh", "-c", "echo > /dev/shm/of-a-sandbox"]
        subprocess.run([*SANDBOX, *inside], cwd=CHECKOUT, check=True, timeout=60)
        assert Path(outside.name).exists() and not Path("/dev/shm/of-a-sandbox").exists()


def test_whatever_is_left_running_ends_with_the_command(tmp_path: Path) -> None:
    handles = _left_behind(tmp_path, "exit 0")
    try:
        assert select.select(handles, [], [], 20)[0]
    finally:
        for handle in handles:
            os.close(handle)


def test_whatever_runs_ends_when_the_sandbox_is_killed(tmp_path: Path) -> None:
    script = "setsid sleep 1000 & echo started; exec sleep 1000"
    process = subprocess.Popen([*SANDBOX, "sh", "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout.read() == b""  # end of file: nobody holds the pipe any more
    process.stdout.close()


def _left_behind(folder: Path, end: str) -> list[int]:
    """Leave a detached process in a sandbox that holds a pipe; return the pipe's reading end, which closes with it."""
    reading, writing = os.pipe()
    subprocess.run([*SANDBOX, "sh", "-c", f"setsid sleep 1000 & {end}"], cwd=CHECKOUT, pass_fds=[writing], check=True, timeout=60)
    os.close(writing)
    return [reading]
