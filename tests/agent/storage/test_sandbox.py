"""What a program in the jail cannot do, each beside a control that can; and that it ends."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.storage.sandbox import IMAGE_USER, Ended, Limits, Program, Sandbox
from deploy.rights import IMAGE_PROGRAM, RIGHTS
from tests.agent.storage.conftest import until
from tests.rights import rights_of, status

LARGE_FILES = Limits(time_s=20, file_bytes=1 << 40, written_bytes=1 << 20)
PYTHON = os.path.realpath(sys.executable)


def program(code: str, *, shown: tuple[tuple[Path, str], ...] = (), limits: Limits | None = None, folder: Path | None = None) -> Program:
    return Program([PYTHON, "-I", "-S", "-c", code], shown, limits or Limits(time_s=20), folder)


async def outcome(tmp_path: Path, code: str, **named: object) -> Ended:
    return await Sandbox(tmp_path).run(program(code, **named))  # type: ignore[arg-type]  # passed on as it came


async def test_it_is_nobody_and_sees_only_what_it_is_shown(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("hello")
    given.chmod(0o644)
    code = """
import os
print(os.getuid(), os.getgid(), os.getgroups())
print(open("/in").read())
print(sorted(name for name in os.listdir("/") if not os.path.islink("/" + name)))
print([line for line in open("/dev/null")])
for path in ("/in", "/usr/x", "/x"):
    try:
        open(path, "w")
    except OSError as error:
        print(error.errno)
"""
    ended = await outcome(tmp_path, code, shown=((given, "/in"),))
    lines = ended.output.decode().splitlines()
    assert lines[0] == f"{IMAGE_USER} {IMAGE_USER} [{IMAGE_USER}]" or lines[0] == f"{IMAGE_USER} {IMAGE_USER} []"
    assert lines[1] == "hello"
    assert set(eval(lines[2])) <= {"in", "usr", "dev", "bin", "sbin", "lib", "lib32", "lib64"}
    assert lines[4:] == ["30", "30", "30"], "the root is read-only"
    assert os.listdir(tmp_path) == ["given"]


async def test_it_reaches_no_network(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    code = f"""
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    print("reached")
except OSError as error:
    print(error.errno)
"""
    outside = await asyncio.create_subprocess_exec(PYTHON, "-I", "-S", "-c", code, stdout=asyncio.subprocess.PIPE)
    assert (await outside.communicate())[0].startswith(b"reached")
    ended = await outcome(tmp_path, code)
    assert ended.output == b"1\n", "it may not even make a socket"
    server.close()
    await server.wait_closed()


async def test_it_cannot_gain_rights_or_make_namespaces(tmp_path: Path) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.prctl(39, 0, 0, 0, 0), libc.unshare(0x20000), libc.mount(b"none", b"/usr", b"tmpfs", 0, None))
try:
    os.setuid(0)
except OSError as error:
    print(error.errno)
try:
    os.kill(1, 9)
except OSError as error:
    print(error.errno)
"""
    assert (await outcome(tmp_path, code)).output.split() == [b"1", b"-1", b"-1", b"1", b"1"]


@pytest.mark.parametrize(
    ("code", "limits", "over"),
    [
        ("while True: pass", Limits(time_s=1), "time"),
        ("import time; time.sleep(60)", Limits(time_s=1), "time"),
        (
            "f = open('/out/x', 'wb', 0)\nwhile True: f.write(b'x' * 65536)",
            Limits(time_s=20, file_bytes=1 << 40, written_bytes=1 << 20),
            "size",
        ),
    ],
)
async def test_what_takes_too_much_is_ended_and_said(tmp_path: Path, code: str, limits: Limits, over: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, IMAGE_USER, IMAGE_USER)
    assert (await outcome(tmp_path, code, limits=limits, folder=out)).over == over


async def test_memory_files_and_words_are_limited(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, IMAGE_USER, IMAGE_USER)
    assert "MemoryError" in (await outcome(tmp_path, "x = bytes(2 << 30)")).error
    small = Limits(file_bytes=8192, written_bytes=1 << 20)
    assert "File too large" in (await outcome(tmp_path, "open('/out/x', 'wb', 0).truncate(9000)", limits=small, folder=out)).error
    assert len((await outcome(tmp_path, "while True: print('x' * 1000)")).output) <= 1 << 20
    assert "\x1b" not in (await outcome(tmp_path, "import sys; sys.stderr.write('\\x1b[2Jbad')")).error


async def test_it_has_the_rights_of_the_table(tmp_path: Path) -> None:
    printed = asyncio.Event()
    running = Sandbox(tmp_path).run(program("import time; print('up', flush=True); time.sleep(600)"), lambda _: printed.set())
    task = asyncio.ensure_future(running)
    await printed.wait()
    (pid,) = jailed()
    # The agent's own filter, which would be the second, is not around this test.
    assert rights_of(status(Path(f"/proc/{pid}"))) == replace(RIGHTS[IMAGE_PROGRAM], filters=1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_cancelled_it_has_ended(tmp_path: Path) -> None:
    printed = asyncio.Event()
    running = Sandbox(tmp_path).run(program("import time; print('up', flush=True); time.sleep(600)"), lambda _: printed.set())
    task = asyncio.ensure_future(running)
    await printed.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert jailed() == []
    assert os.listdir(tmp_path) == []


async def test_it_ends_with_an_agent_that_was_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio
from pathlib import Path
from agent.storage.sandbox import Limits, Program, Sandbox
sleep = Program([{PYTHON!r}, "-I", "-S", "-c", "import time; print(1, flush=True); time.sleep(600)"], (), Limits(time_s=600))
asyncio.run(Sandbox(Path({str(tmp_path)!r})).run(sleep, lambda _: print("up", flush=True)))
"""
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert agent.stdout is not None
    assert (await agent.stdout.readline()).strip() == b"up"
    assert len(jailed()) == 1
    agent.send_signal(signal.SIGKILL)
    await agent.wait()

    async def all_ended() -> bool:
        return jailed() == []

    await until(all_ended)


def jailed() -> list[int]:
    """Return the pids of processes of the jail's user that sleep as the tests above have them do."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and path.stat().st_uid == IMAGE_USER and b"time.sleep(600)" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found
