"""What the programs of agents have in common: their one option, when they are told to end, and saying why they end by themselves."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kumo import config as toml
from kumo import log as logs
from kumo.errors import Error
from kumo.log import get_logger

log = get_logger(__name__)


class _Logs(Protocol):
    @property
    def log_level(self) -> str: ...


C = TypeVar("C", bound=_Logs)


def run(name: str, arguments: list[str], kind: type[C], serve: Callable[[C], Coroutine[Any, Any, None]]) -> int:
    """Do what `serve` does with the configuration, of that kind, that the arguments name. Returns the exit code, or ends the process."""
    if len(arguments) != 2 or arguments[0] != "--config":
        print(f"usage: {name} --config FILE", file=sys.stderr)
        return 2
    logs.configure(name)
    try:
        config = toml.load(Path(arguments[1]), kind)
        logs.configure(name, level=config.log_level)
        asyncio.run(serve(config))
    except Error as error:
        _say(error)
        return 2
    except ExceptionGroup as group:
        _say(group)
        return 1
    # Threads that hang in a library would keep the interpreter from ending.
    sys.stderr.flush()
    os._exit(0)


def told_to_end() -> asyncio.Event:
    """Return what is set from when the process gets SIGTERM or SIGINT; call it in the loop that shall notice."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


def _say(error: Exception) -> None:
    """Log why the program ends; of tasks that ended together, the first one is the cause."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Error):
        log.error("agent ends", reason=error.reason, why=error.message, fix=error.fix)
    else:
        log.exception("agent ends", error=error)
