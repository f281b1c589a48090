"""What the API advises becomes a command to paste where one does just that, and stays as it is elsewhere."""

import pytest

from cli.advice import command_for, short

SERVER = "projects/default/servers/web1"


@pytest.mark.parametrize(
    ("reason", "fix", "name", "command"),
    [
        ("FLAVOR_NOT_FOUND", "list the flavors that there are", "flavors/tinny", "kumo flavor list"),
        ("SERVER_STOPPED", "start it", SERVER, "kumo server start web1"),
        ("IN_USE", f"delete {SERVER} first", "flavors/tiny", "kumo server delete web1"),
        ("OWNED", f"delete {SERVER}", "projects/default/ports/web1-0", "kumo server delete web1"),
        ("IN_USE", "delete those first", "flavors/tiny", "delete those first"),
        ("NO_ROOM", "wait, or ask for less", SERVER, "wait, or ask for less"),
        ("CELL_NOT_FOUND", "name one of a, b", "", "name one of a, b"),
    ],
)
def test_a_fix_becomes_a_command_where_there_is_one(reason: str, fix: str, name: str, command: str) -> None:
    assert command_for(reason, fix, {"name": name}) == command


def test_a_name_is_shortened_to_what_commands_take() -> None:
    assert (short(SERVER), short("hosts/h1"), short("web1"), short("cells/a")) == ("server/web1", "host/h1", "web1", "cells/a")
