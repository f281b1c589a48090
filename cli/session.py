"""What one run of the command shares: the options given before the noun, and the client made from them when first needed."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from cli.nouns import Noun

if TYPE_CHECKING:
    from cli.client import Client


@dataclass
class Session:
    """The choice of cloud and project, and the connection."""

    context_name: str | None = None
    project: str | None = None
    timeout_s: float = 10.0
    verbose: bool = False
    _clients: list["Client"] = field(default_factory=list)

    @property
    def client(self) -> "Client":
        if not self._clients:
            from cli.client import Client
            from cli.contexts import choose

            self._clients.append(Client(choose(self.context_name, self.project), self.timeout_s, self.verbose))
        return self._clients[0]

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def full_name(self, noun: Noun, given: str) -> str:
        """Return the resource name of what was typed: an id, noun/id, or a full name."""
        if given.count("/") >= (3 if noun.in_project else 1) and given.split("/")[-2] == noun.plural:
            return given
        own_id = given.removeprefix(f"{noun.singular}/").removeprefix(f"{noun.plural}/")
        return f"{self.client.parent}/{noun.plural}/{own_id}" if noun.in_project else f"{noun.plural}/{own_id}"


# Message classes are looked up by name, so that each command imports its own noun's alone; hence Any.
def module_of(noun: Noun) -> Any:
    return importlib.import_module(noun.module)


def message_of(noun: Noun, name: str) -> Any:
    """Return a message class of the noun's file, e.g. `ListServersRequest`."""
    return getattr(module_of(noun), name)


def pass_session(command: Callable[..., None]) -> Callable[..., None]:
    """Give the session to a command as its first argument."""
    return click.make_pass_decorator(Session, ensure=True)(command)
