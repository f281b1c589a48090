"""Structured logs: one JSON object a line on stderr; what is bound at the edge (request id, principal, resource) is in each.

The event is a constant phrase and everything else is a key. It decides nothing about where lines go after stderr.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

_NOTHING: Mapping[str, object] = MappingProxyType({})
_BOUND: ContextVar[Mapping[str, object]] = ContextVar("kumo_log_bound", default=_NOTHING)
_HIDDEN = frozenset({"password", "secret", "token", "user_data", "private_key", "authorization"})
_FIELDS = "kumo_fields"


def bind(**fields: object) -> None:
    """Add `fields` to every line that the current task, and those it starts from now on, will log."""
    _BOUND.set({**_BOUND.get(), **fields})


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Add `fields` to every line logged inside the block."""
    token = _BOUND.set({**_BOUND.get(), **fields})
    try:
        yield
    finally:
        _BOUND.reset(token)


def bound_fields() -> Mapping[str, object]:
    return _BOUND.get()


class Logger:
    """Logs events with fields; a thin face on the logger of the same name in the standard library."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, *, error: BaseException, **fields: object) -> None:
        """Log a failure nobody expected, with its stack."""
        if self._logger.isEnabledFor(logging.ERROR):
            stack = "".join(traceback.format_exception(error))
            self._log(logging.ERROR, event, {"error": f"{type(error).__name__}: {error}", **fields, "stack": stack})

    def _log(self, level: int, event: str, fields: Mapping[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={_FIELDS: {**_BOUND.get(), **fields}})


def get_logger(name: str) -> Logger:
    return Logger(name)


class JsonFormatter(logging.Formatter):
    """Formats records of Kumo's own loggers and of libraries alike."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, object] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= {"process": self._process, "logger": record.name}
        for key, value in getattr(record, _FIELDS, _NOTHING).items():
            line[key if key not in line else f"{key}_"] = "[hidden]" if key in _HIDDEN else _plain(value)
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _plain(value: object) -> object:
    """Return `value` as JSON can hold it; anything unknown as its text."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)


def configure(process: str, *, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (stderr) as JSON. Called once, from main."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
