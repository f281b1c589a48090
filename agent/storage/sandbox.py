"""Runs programs on files of tenants in the jail, and says how each ended; it decides nothing about the files."""

import asyncio
import base64
import json
import os
import shutil
import sys
import tempfile
from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kumo.calls import image_program
from kumo.errors import Unavailable

IMAGE_USER = 64106
_JAIL = Path(__file__).with_name("jail.py")
# The system's Python: what the jail's root holds of it is below /usr.
_PYTHON = os.path.realpath(sys.executable)
_JAIL_FAILED = 125
_MAX_OUTPUT_BYTES = 1 << 20
_LOOK_EVERY_S = 0.1
_KILLED = 137


@dataclass(frozen=True)
class Limits:
    """What a program may use. `file_bytes` is the largest offset it may write at, `written_bytes` what it may fill of its folder."""

    time_s: float = 60.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 0
    written_bytes: int = 0


@dataclass(frozen=True)
class Program:
    """A program and what it sees. `shown` are files at paths of their own, read-only; `folder` is writable and at /out."""

    argv: Sequence[str]
    shown: Sequence[tuple[Path, str]]
    limits: Limits
    folder: Path | None = None


@dataclass(frozen=True)
class Ended:
    """How a program ended. `over` names the limit it reached, if it did."""

    code: int
    output: bytes
    error: str
    over: str = ""


def python_program(script: Path, arguments: Sequence[str]) -> tuple[list[str], tuple[Path, str]]:
    """Return the arguments that run `script` inside the jail, and what must be shown for that."""
    inside = f"/{script.stem}.jailed.py"
    return [_PYTHON, "-I", "-S", inside, *arguments], (script, inside)


class Sandbox:
    """Starts each program in a jail of its own, below `directory`, as `user`."""

    def __init__(self, directory: Path, user: int = IMAGE_USER) -> None:
        self._directory = directory
        self._user = user

    async def run(self, program: Program, progress: Callable[[bytes], None] | None = None) -> Ended:
        """Return how the program ended; cancelled, it has ended too. `progress` is told what it prints.

        Raises Unavailable SANDBOX_FAILED if there is no jail to be had.
        """
        root = Path(await to_thread(tempfile.mkdtemp, prefix="root-", dir=self._directory))
        try:
            async with self._started(root, program) as process:
                ended = await self._watch(process, program, progress)
        finally:
            await to_thread(shutil.rmtree, root)
        if ended.code == _JAIL_FAILED or ended.error.startswith("jail: "):
            raise Unavailable("SANDBOX_FAILED", f"no jail for {program.argv[0]}: {ended.error}", fix="the agent needs CAP_SYS_ADMIN")
        return ended

    @asynccontextmanager
    async def _started(self, root: Path, program: Program) -> AsyncIterator[asyncio.subprocess.Process]:
        order = {
            "parent": os.getpid(),
            "root": str(root),
            "user": self._user,
            "binds": [(str(path), inside, False) for path, inside in program.shown]
            + ([(str(program.folder), "/out", True)] if program.folder else []),
            "limits": {
                "AS": program.limits.memory_bytes,
                "CPU": int(program.limits.time_s) + 1,
                "FSIZE": program.limits.file_bytes,
            },
            "filter": base64.b64encode(image_program()).decode(),
            "argv": list(program.argv),
        }
        pipe = asyncio.subprocess.PIPE
        argv = (_PYTHON, "-I", "-S", str(_JAIL), json.dumps(order))
        process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env={}, cwd="/")
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            # Their ends: of the jail's init and of the program, which held the pipes.
            await asyncio.shield(asyncio.gather(_drain(process.stdout), _drain(process.stderr), process.wait()))

    async def _watch(self, process: asyncio.subprocess.Process, program: Program, progress: Callable[[bytes], None] | None) -> Ended:
        assert process.stdout is not None and process.stderr is not None
        over: list[str] = []
        async with asyncio.TaskGroup() as tasks:
            output = tasks.create_task(_collect(process.stdout, process.kill, progress))
            error = tasks.create_task(_collect(process.stderr, process.kill, None))
            watcher = tasks.create_task(_kill_when_over(program, process, over))
            await asyncio.wait([output, error])
            watcher.cancel()
            code = await process.wait()
        if not over and code == _KILLED:
            over.append("time")
        elif not over and program.folder is not None and await to_thread(taken_bytes, program.folder) > program.limits.written_bytes:
            over.append("size")
        return Ended(code, output.result(), printable(error.result()), "".join(over))


async def _kill_when_over(program: Program, process: asyncio.subprocess.Process, over: list[str]) -> None:
    """Kill the program when it reaches a limit that the kernel does not watch for it, and note in `over` which."""
    limits = program.limits
    end = asyncio.get_running_loop().time() + limits.time_s
    while not over:
        await asyncio.sleep(_LOOK_EVERY_S)
        if asyncio.get_running_loop().time() > end:
            over.append("time")
        elif program.folder is not None and await to_thread(taken_bytes, program.folder) > limits.written_bytes:
            over.append("size")
    with suppress(ProcessLookupError):
        process.kill()


def taken_bytes(folder: Path) -> int:
    """Return what the files of a folder take on the disk."""
    taken = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            taken += path.lstat().st_blocks * 512
    return taken


async def _collect(stream: asyncio.StreamReader, kill: Callable[[], None], progress: Callable[[bytes], None] | None) -> bytes:
    """Return what the stream says, until it ends; who says too much is killed. With `progress` it is told instead of kept."""
    kept = bytearray()
    while data := await stream.read(4096):
        if progress is not None:
            progress(data)
        elif len(kept) + len(data) > _MAX_OUTPUT_BYTES:
            kill()
        else:
            kept += data
    return bytes(kept)


def _drain(stream: asyncio.StreamReader | None) -> Awaitable[bytes]:
    assert stream is not None
    return _collect(stream, lambda: None, lambda _: None)


def printable(text: bytes, limit: int = 300) -> str:
    """Return the end of what a program said of a tenant's file, harmless to print."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text.decode("utf-8", "replace"))
    return " ".join(shown.split())[-limit:]
