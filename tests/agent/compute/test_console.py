"""Readers of a console log miss nothing and read nothing twice, also while the log is moved away under them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.compute.console import ConsoleInputs, ConsoleLogs
from agent.compute.driver import ConsoleInput
from kumo.errors import NotFound
from kumo.ids import new_uid

UID = new_uid()


def write(path: Path, data: bytes) -> None:
    with path.open("ab") as log:
        log.write(data)


def rotate(path: Path) -> None:
    """Do as virtlogd does when a log is full."""
    older = path.with_name(f"{path.name}.0")
    if older.exists():
        older.rename(path.with_name(f"{path.name}.1"))
    path.rename(older)


async def read_all(logs: ConsoleLogs, tail_bytes: int = 0) -> bytes:
    return b"".join([piece async for piece in logs.read(UID, tail_bytes)])


@given(pieces=st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=3), tail=st.integers(0, 70))
def test_the_tail_goes_back_over_moved_logs(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], tail: int) -> None:
    logs = ConsoleLogs(tmp_path_factory.mktemp("consoles"))
    for index, piece in enumerate(pieces):
        if index:
            rotate(logs.path(UID))
        write(logs.path(UID), piece)
    whole = b"".join(pieces)
    assert asyncio.run(read_all(logs, tail)) == (whole[-tail:] if tail else whole)


async def test_a_follower_reads_on_across_moves(tmp_path: Path) -> None:
    logs = ConsoleLogs(tmp_path)
    path = logs.path(UID)
    seen = bytearray()
    read_so_far = asyncio.Event()

    async def follow() -> None:
        async for piece in logs.read(UID, follow=True):
            seen.extend(piece)
            read_so_far.set()

    async def until(end: bytes) -> None:
        async with asyncio.timeout(10):
            while not seen.endswith(end):
                read_so_far.clear()
                await read_so_far.wait()

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow())
        await asyncio.sleep(0)
        write(path, b"one ")
        await until(b"one ")
        write(path, b"two ")
        rotate(path)
        write(path, b"three ")
        await until(b"three ")
        write(path, b"four")
        await until(b"four")
        following.cancel()
    assert bytes(seen) == b"one two three four"


async def test_a_log_that_is_not_there_is_awaited_by_followers_alone(tmp_path: Path) -> None:
    logs = ConsoleLogs(tmp_path)
    with pytest.raises(NotFound):
        await read_all(logs)
    following = asyncio.ensure_future(anext(logs.read(UID, follow=True)))
    await asyncio.sleep(0)
    write(logs.path(UID), b"here")
    async with asyncio.timeout(10):
        assert await following == b"here"


def test_what_is_removed_is_gone_with_its_older_parts(tmp_path: Path) -> None:
    logs = ConsoleLogs(tmp_path)
    write(logs.path(UID), b"old")
    rotate(logs.path(UID))
    write(logs.path(UID), b"new")
    logs.remove(UID)
    assert list(tmp_path.iterdir()) == []


class Line:
    """A way into a console, as a hypervisor gives it."""

    def __init__(self) -> None:
        self.closed = False
        self.typed = b""

    async def send(self, data: bytes) -> None:
        self.typed += data

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
async def lines() -> AsyncIterator[list[Line]]:
    yield []


async def test_viewers_share_one_way_in_until_the_last_one_leaves(lines: list[Line]) -> None:
    async def open_line(_: str) -> ConsoleInput:
        lines.append(Line())
        return lines[-1]

    inputs = ConsoleInputs(open_line)
    async with inputs.attached(UID):
        async with inputs.attached(UID):
            await inputs.send(UID, b"a")
            await inputs.send(UID, b"b")
        assert [line.typed for line in lines] == [b"ab"] and not lines[0].closed
        lines[0].closed = True
        await inputs.send(UID, b"c")
        assert lines[1].typed == b"c", "a way in that ended with its guest is opened anew"
    assert lines[1].closed
