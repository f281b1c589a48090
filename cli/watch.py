"""`list -w`: the table, then a row for each change, over lost connections without a gap or a repeat."""

import json
from typing import Any

from cli.nouns import Noun
from cli.output import columns_of, fitting, row, to_dict
from cli.read import listed
from cli.session import Session
from cli.table import render
from cli.terminal import harmless, say
from cli.wait import CHANGE_DELETED, CHANGE_SYNCED, changes

_STATE_CHARS = len("REBOOTING")
_KINDS = {1: "EXISTING", 3: "CREATED", 4: "UPDATED", 5: "DELETED"}


def watch_table(session: Session, noun: Noun, parent: str, query: str, output: str, *, headers: bool, full_names: bool) -> None:
    """Print what there is and then every change until interrupted. JSON and YAML come as one document a line."""
    items, token = listed(session, noun, parent, query)
    printer = _Printer(noun, output, full_names)
    printer.start(items, headers)

    def on_cut() -> None:
        say("connection lost; going on from the last change that was seen")

    for change in changes(session, noun, parent=parent, query=query, token=token, deadline=None, on_cut=on_cut):
        if change.kind != CHANGE_SYNCED:
            printer.change(change.kind, getattr(change, noun.singular))


class _Printer:
    def __init__(self, noun: Noun, output: str, full_names: bool) -> None:
        self._noun, self._output, self._full_names = noun, output, full_names
        self._columns = columns_of(noun, output == "wide")
        self._widths: list[int] = []
        # What was printed last of each resource, so that a change of what no column shows is no new row.
        self._shown: dict[str, list[str]] = {}

    def start(self, items: list[Any], headers: bool) -> None:
        if self._output in ("json", "yaml", "name"):
            for item in items:
                self.change(1, item)
            return
        rows = [self._cells(item) for item in items]
        self._shown = {item.uid: self._lasting(cells) for item, cells in zip(items, rows, strict=True)}
        names = [column.header for column in self._columns]
        everything = [names, *rows]
        self._widths = [max(len(harmless(cells[index])) for cells in everything) for index in range(len(names))]
        if "STATE" in names:
            self._widths[names.index("STATE")] = max(self._widths[names.index("STATE")], _STATE_CHARS)
        for line in render(names, rows, with_headers=headers, widths=self._widths):
            print(fitting(line, self._columns, self._output), flush=True)

    def _cells(self, resource: Any) -> list[str]:
        return row(self._noun, resource, self._columns, self._full_names)

    def _lasting(self, cells: list[str]) -> list[str]:
        """Return the cells that do not change by themselves."""
        return [cell for cell, column in zip(cells, self._columns, strict=True) if column.header != "AGE"]

    def change(self, kind: int, resource: Any) -> None:
        match self._output:
            case "json" | "yaml":
                print(json.dumps({"kind": _KINDS.get(kind, "?"), self._noun.singular: to_dict(resource)}), flush=True)
            case "name":
                print(harmless(resource.name), flush=True)
            case _:
                cells = self._cells(resource)
                if kind == CHANGE_DELETED:
                    cells[1] = "DELETED"
                    self._shown.pop(resource.uid, None)
                elif self._shown.get(resource.uid) == self._lasting(cells):
                    return
                else:
                    self._shown[resource.uid] = self._lasting(cells)
                for line in render([], [cells], with_headers=False, widths=self._widths):
                    print(fitting(line, self._columns, self._output), flush=True)
