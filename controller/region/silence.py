"""Which cells are silent now, as this process's mirror says; kept ready, since every read asks."""

from collections.abc import Mapping

from controller.region.present import Silence
from kumo.api.fleet.v1.cell_pb2 import Cell
from kumo.names import id_of
from kumo.store.table import Table


class Silences:
    """Call it to have the silent cells by name."""

    def __init__(self, cells: Table[Cell]) -> None:
        self._cells = cells
        self._silent: dict[str, Silence] = {}
        self._names: dict[str, str] = {}
        cells.on_change(self._changed)

    def __call__(self) -> Mapping[str, Silence]:
        return self._silent

    def _changed(self, uid: str) -> None:
        entry = self._cells.mirror.replica.entries.get(uid)
        if entry is None:
            self._silent.pop(self._names.pop(uid, ""), None)
            return
        cell = self._cells.joined(entry)
        name = self._names[uid] = id_of(cell.name)
        if cell.status.state == Cell.SILENT:
            self._silent[name] = Silence(name, cell.status.since)
        else:
            self._silent.pop(name, None)
