"""A watched table has a row for each change that it shows, in the columns that it began with."""

import pytest

from cli.nouns import NOUNS
from cli.watch import _Printer
from kumo.api.compute.v1.server_pb2 import Server

UPDATED, DELETED = 4, 5


def server(state: Server.State.ValueType, generation: int = 1) -> Server:
    made = Server(name="projects/p/servers/web1", uid="u", generation=generation)
    made.status.state = state
    return made


def test_rows_keep_to_the_columns_and_what_no_column_shows_is_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    printer = _Printer(NOUNS["server"], "table", False)
    printer.start([server(Server.ACTIVE)], headers=True)
    printer.change(UPDATED, server(Server.ACTIVE, generation=2))
    printer.change(UPDATED, server(Server.REBOOTING))
    printer.change(UPDATED, server(Server.ACTIVE))
    printer.change(DELETED, server(Server.ACTIVE))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["STATE", "ACTIVE", "REBOOTING", "ACTIVE", "DELETED"]
    assert len({line.index(line.split()[2]) for line in lines}) == 1


def test_json_has_every_change(capsys: pytest.CaptureFixture[str]) -> None:
    printer = _Printer(NOUNS["server"], "json", False)
    for generation in (1, 2):
        printer.change(UPDATED, server(Server.ACTIVE, generation))
    assert len(capsys.readouterr().out.splitlines()) == 2
