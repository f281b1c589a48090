"""A file of state is old, new, or known to be damaged; never half, and never taken for nothing."""

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.state import StateFiles
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest
from kumo.api.type.v1.stamp_pb2 import Term
from kumo.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from kumo.ids import new_uid

TERM = Term(incarnation=new_uid(), create_revision=7)


async def kept(directory: Path) -> Path:
    """Keep one message and return its file."""
    files = StateFiles(directory)
    await files.save("terms", "one", TERM)
    files.close()
    return directory / "terms" / "one.state"


async def test_what_was_saved_is_loaded_until_it_is_removed(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    await files.save("terms", "one", Term(create_revision=1))
    await files.save("terms", "one", TERM)
    assert StateFiles(tmp_path).load("terms", Term) == {"one": TERM}
    await files.remove("terms", "one")
    await files.remove("terms", "one")
    assert StateFiles(tmp_path).load("terms", Term) == {}


async def test_only_its_owner_reads_what_is_kept(tmp_path: Path) -> None:
    path = await kept(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@given(data=st.data())
def test_a_file_with_any_byte_changed_or_missing_is_set_aside(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("state")
    path = asyncio.run(kept(directory))
    content = path.read_bytes()
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        damaged = content[:where]
    else:
        damaged = content[:where] + bytes([content[where] ^ data.draw(st.integers(1, 255))]) + content[where + 1 :]
    path.write_bytes(damaged)
    files = StateFiles(directory)
    try:
        assert files.load("terms", Term) == {}
    except FailedPrecondition as error:
        assert error.reason == "STATE_FORMAT_NEWER"
        return
    (problem,) = files.problems
    assert "one.state" in problem
    assert StateFiles(directory).load("terms", Term) == {}, "it stays aside"


async def test_a_damaged_file_is_reported_until_its_thing_is_told_anew(tmp_path: Path) -> None:
    path = await kept(tmp_path)
    path.write_bytes(b"{}")
    first = StateFiles(tmp_path)
    first.load("terms", Term)
    assert first.problems
    again = StateFiles(tmp_path)
    again.load("terms", Term)
    assert again.problems
    await again.save("terms", "one", TERM)
    assert again.problems == []
    last = StateFiles(tmp_path)
    assert last.load("terms", Term) == {"one": TERM}
    assert last.problems == []


async def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    newer = StateFiles(tmp_path, format_version=9)
    await newer.save("terms", "one", TERM)
    with pytest.raises(FailedPrecondition) as refused:
        StateFiles(tmp_path).load("terms", Term)
    assert refused.value.reason == "STATE_FORMAT_NEWER"
    assert "format 9" in refused.value.message


async def test_another_message_in_its_place_is_damage(tmp_path: Path) -> None:
    await kept(tmp_path)
    files = StateFiles(tmp_path)
    assert files.load("terms", ApplyServerRequest) == {}
    assert "not a kumo.api.agent.v1.ApplyServerRequest" in files.problems[0]


async def test_the_rest_of_a_write_that_a_crash_cut_is_cleared_away(tmp_path: Path) -> None:
    path = await kept(tmp_path)
    (path.parent / ".two.state.new").write_bytes(b"half")
    assert StateFiles(tmp_path).load("terms", Term) == {"one": TERM}
    assert [file.name for file in path.parent.iterdir()] == ["one.state"]


async def test_what_cannot_be_committed_in_time_is_dropped(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    with pytest.raises(DeadlineExceeded):
        await files.save("terms", "one", TERM, not_after=time.monotonic() - 1)
    assert StateFiles(tmp_path).load("terms", Term) == {}


async def test_a_save_that_is_cancelled_has_ended_either_way(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    saving = asyncio.ensure_future(files.save("terms", "one", TERM))
    await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert StateFiles(tmp_path).load("terms", Term) == {"one": TERM}


async def test_a_disk_that_refuses_is_said_to(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    await files.save("terms", "one", TERM)
    (tmp_path / "terms" / ".two.state.new").mkdir()
    with pytest.raises(Unavailable) as refused:
        await files.save("terms", "two", TERM)
    assert refused.value.reason == "STATE_NOT_WRITTEN"
