"""Log lines: one JSON object each, with what is bound, without secrets."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from kumo.log import JsonFormatter, bind, bound, configure, get_logger

log = get_logger("kumo.test_log")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Have this process log as configure() makes it, and put everything back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure("kumo-test", level="INFO", stream=stream)
    try:
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_event_process_and_fields(written: io.StringIO) -> None:
    log.info("volume grown", volume="volumes/v", from_gib=1, tags=("a", 2), nothing=None)
    log.debug("not shown")
    (line,) = lines(written)
    time = line.pop("time")
    assert isinstance(time, str) and time.endswith("Z") and "T" in time
    assert line == {
        "level": "info",
        "event": "volume grown",
        "process": "kumo-test",
        "logger": "kumo.test_log",
        "volume": "volumes/v",
        "from_gib": 1,
        "tags": ["a", 2],
        "nothing": None,
    }


async def test_what_is_bound_is_in_every_line_of_the_task_and_of_no_other(written: io.StringIO) -> None:
    async def one(name: str) -> None:
        bind(request_id=name)
        await asyncio.sleep(0)
        with bound(resource=f"servers/{name}"):
            log.info("inside")
        log.info("outside")

    await asyncio.gather(one("a"), one("b"))
    log.info("elsewhere")
    seen = [(line["event"], line.get("request_id"), line.get("resource")) for line in lines(written)]
    assert sorted(seen[:4]) == [("inside", "a", "servers/a"), ("inside", "b", "servers/b"), ("outside", "a", None), ("outside", "b", None)]
    assert seen[4] == ("elsewhere", None, None)


@pytest.mark.parametrize("key", ["password", "token", "user_data", "private_key"])
def test_secrets_are_hidden(written: io.StringIO, key: str) -> None:
    log.info("configured", **{key: "canary"})
    assert "canary" not in written.getvalue()


def test_an_exception_brings_its_stack_in_one_line(written: io.StringIO) -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError as error:
        log.exception("failed", error=error, host="h1")
    (line,) = lines(written)
    assert line["error"] == "ValueError: broken\nin two" and line["host"] == "h1"
    assert "test_log.py" in str(line["stack"])


def test_a_field_cannot_replace_the_event(written: io.StringIO) -> None:
    log.info("really", level="x", time="y")
    (line,) = lines(written)
    assert line["event"] == "really" and line["level"] == "info" and line["level_"] == "x"


def test_lines_of_libraries_are_json_too(written: io.StringIO) -> None:
    try:
        raise OSError("disk")
    except OSError:
        logging.getLogger("library").warning("took %d s", 3, exc_info=True)
    (line,) = lines(written)
    assert line["event"] == "took 3 s" and "OSError: disk" in str(line["stack"])
    assert JsonFormatter("p").format(logging.makeLogRecord({"msg": "x", "levelname": "INFO"})).startswith("{")
