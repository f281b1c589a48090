"""Decides for each thing which cells shall hold it and writes that down, before push tells them. Runs with the region's leader.

A server's cell is chosen, and what belongs to it follows in the same transaction. Networks go where a port of theirs is, pools and
images where their pool is reached. A port that stands alone stays in the region.
"""

from collections.abc import Iterable
from typing import Any

from controller.region.cells.choose import Cell, Choice, Host, Wish, choose
from controller.region.cells.shares import PLACED, Own
from controller.region.cells.wake import keys_of, woken
from controller.region.tables import Tables, by_kind
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1 import host_pb2
from kumo.api.fleet.v1.cell_pb2 import Cell as CellRecord
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.condition_pb2 import Condition
from kumo.api.type.v1.placement_pb2 import Share
from kumo.clock import Clock
from kumo.log import get_logger
from kumo.loop import Loop
from kumo.store.errors import Conflict
from kumo.store.plane import Plane
from kumo.store.term import Term
from kumo.store.txn import Txn

log = get_logger(__name__)

_WORKERS = 16
# What no cell took is offered to all of them anew after this time.
_OFFERED_AGAIN_S = 30.0


class Place:
    """The placements of one term. Keys of the loop are KIND/UID."""

    def __init__(self, plane: Plane, tables: Tables, cells: Iterable[str], term: Term, clock: Clock) -> None:
        self._plane, self._tables, self._cells, self._term, self._clock = plane, tables, tuple(cells), term, clock
        self._by_kind = by_kind(tables)
        self._states: dict[str, CellRecord.State.ValueType] = {}
        self.loop = Loop("place", self._reconcile, workers=_WORKERS, clock=clock, keys=keys_of(self._by_kind))

    async def run(self) -> None:
        end = self._tables.cells.on_change(self._cell_changed)
        try:
            with woken(self.loop, self._by_kind):
                await self.loop.run()
        finally:
            end()

    def _cell_changed(self, cell_uid: str) -> None:
        """If a cell is heard now, or is not any more, look at everything that may wait for one; how far it was read says nothing."""
        entry = self._tables.cells.mirror.replica.entries.get(cell_uid)
        state = self._tables.cells.joined(entry).status.state if entry is not None else CellRecord.STATE_UNSPECIFIED
        if state == self._states.get(cell_uid):
            return
        self._states[cell_uid] = state
        for kind in ("pool", "image", "volume", "server"):
            for uid in list(self._by_kind[kind].mirror.replica.entries):
                self.loop.add(f"{kind}/{uid}")

    async def _reconcile(self, key: str) -> float | None:
        kind, uid = key.split("/")
        parts = await self._by_kind[kind].parts(uid)
        if parts is None:
            return None
        record, own = parts.intent, Own.of(parts.placement)
        if isinstance(record, Server):
            # Each table is followed by itself: the children that were written with the server may not be seen yet.
            for table in (self._tables.volumes, self._tables.attachments, self._tables.ports):
                await table.mirror.wait(parts.intent_revision)
        if isinstance(record, Pool | Image):
            await self._carry(record, own, await self._reach(record))
            if isinstance(record, Pool):
                for image in await self._tables.images.find("pool", uid):
                    self.loop.add(f"image/{image.uid}")
            return None
        if isinstance(record, Network):
            await self._carry(record, own, await self._cells_with_ports(record))
            return None
        if isinstance(record, Port):
            await self._follow_server(record, own)
            return None
        if isinstance(record, Server) or (isinstance(record, Volume) and not record.owner_uid):
            return await self._give(record, own)
        return None  # owned: placed with its owner

    async def _carry(self, record: Any, own: Own, wanted: Iterable[str]) -> None:
        """Have every one of `wanted` hold `record`; those that hold it already go on until it ends."""
        missing = [cell for cell in wanted if cell not in {share.cell for share in own.live}]
        if not missing or record.HasField("delete_time"):
            return
        for cell in missing:
            own = own.given_to(cell, 0)
        txn = self._txn()
        txn.write_placement(self._table(record), record.uid, own.part(record))
        self._unchanged(txn, record)
        await txn.commit()

    async def _give(self, record: Any, own: Own) -> float | None:
        """Choose a cell for what has one owner, unless it has one, or is to go."""
        if own.live or record.HasField("delete_time"):
            return None
        choice = choose(await self._wish(record, own), await self._known_cells())
        if choice.cell is None:
            return await self._say_why(record, own, choice)
        children = await self._children(record) if isinstance(record, Server) else []
        # A port keeps the epochs of servers that used it before, and no cell takes a lower one.
        epoch = max(own.next_epoch(), *(held.next_epoch() for _, held in children), 1)
        txn = self._txn()
        self._unchanged(txn, record)
        for one, held in [(record, own), *children]:
            txn.write_placement(self._table(one), one.uid, held.given_to(choice.cell, epoch).part(one))
        await txn.commit()
        log.info("cell chosen", name=record.name, cell=choice.cell, epoch=epoch)
        return None

    async def _children(self, server: Server) -> list[tuple[Any, Own]]:
        """Return what goes where the server goes, each with the region's own part of it."""
        tables = self._tables
        found: list[Any] = [
            *await tables.volumes.find("owner", server.uid),
            *await tables.attachments.find("server", server.uid),
            *await tables.ports.find("server", server.uid),
        ]
        parts = [(one, await self._table(one).parts(one.uid)) for one in found]
        return [(one, Own.of(part.placement)) for one, part in parts if part is not None]

    async def _follow_server(self, port: Port, own: Own) -> None:
        """Take a port back that no server uses any more, and have its network looked at if it is not where the port is."""
        network = await self._tables.networks.parts(port.spec.network_uid)
        carried_in = {share.cell for share in Own.of(network.placement).live} if network is not None else set()
        for share in own.live:
            if share.cell not in carried_in:
                # By its own key, since many ports of one network come at the same time.
                self.loop.add(f"network/{port.spec.network_uid}")
            if not port.spec.server_uid and not share.withdrawn and not port.HasField("delete_time"):
                txn = self._txn()
                self._unchanged(txn, port)
                txn.write_placement(self._tables.ports, port.uid, own.withdrawn(share.cell).part(port))
                await txn.commit()

    async def _wish(self, record: Any, own: Own) -> Wish:
        reach = frozenset(await self._reach(record))
        refused = frozenset(share.cell for share in own.shares if share.answer == Share.REFUSED and not share.withdrawn)
        if isinstance(record, Server):
            return Wish(record.spec.vcpus, record.spec.memory_mib, (reach,), refused)
        return Wish(cells=(reach,), refused_by=refused)

    async def _say_why(self, record: Any, own: Own, choice: Choice) -> float:
        """Keep why no cell was chosen, and look again: at once when a cell is heard, else after a while, offering it anew to all."""
        said = own.saying(_no_cell(choice, record.generation, self._clock))
        for share in own.shares:
            if share.answer == Share.REFUSED and self._is_old(own):
                said = said.withdrawn(share.cell)
        txn = self._txn()
        if txn.write_placement(self._table(record), record.uid, said.part(record)):
            await txn.commit()
        return _OFFERED_AGAIN_S

    def _is_old(self, own: Own) -> bool:
        said = next((condition for condition in own.conditions if condition.type == PLACED), None)
        return said is not None and said.HasField("since") and self._clock.now().timestamp() - said.since.seconds >= _OFFERED_AGAIN_S

    async def _known_cells(self) -> list[Cell]:
        known: list[Cell] = []
        for name in self._cells:
            record = await self._tables.cells.get(f"cells/{name}")
            hosts = tuple(_digest(host) for host in await self._tables.hosts.find("cell", name))
            known.append(Cell(name, record is not None and record.status.state == CellRecord.HEARD, hosts))
        return known

    async def _reach(self, record: Any) -> list[str]:
        """Return the cells that reach the pool of `record`, or that pool itself."""
        pool = record if isinstance(record, Pool) else await self._tables.pools.get_by_uid(record.spec.pool_uid)
        if pool is None:
            raise Conflict(record.spec.pool)
        return [cell for cell in self._cells if not pool.spec.cells or cell in pool.spec.cells]

    async def _cells_with_ports(self, network: Network) -> list[str]:
        ports = await self._tables.ports.find("network", network.uid)
        return sorted({share.cell for port in ports for share in Own.of(port).live})

    def _table(self, record: Any) -> Any:
        return self._by_kind[type(record).DESCRIPTOR.name.lower()]

    def _txn(self) -> Txn:
        return self._plane.txn(fence=self._term)

    def _unchanged(self, txn: Txn, record: Any) -> None:
        """Guard that nobody asked for the end of `record` since it was read."""
        txn.update_intent(self._table(record), record, record)


def _digest(host: host_pb2.Host) -> Host:
    status = host.status
    is_up = status.state == host_pb2.Host.UP and not host.spec.cordoned
    return Host(is_up, status.vcpus - status.claimed_vcpus, status.memory_mib - status.claimed_memory_mib)


def _no_cell(choice: Choice, generation: int, clock: Clock) -> Condition:
    reasons = ", ".join(f"{cell}: {why}" for cell, why in sorted(choice.turned_down.items())) or "this region has no cell"
    refused = any(why == "REFUSED" for why in choice.turned_down.values())
    condition = Condition(
        type=PLACED,
        status=Condition.FALSE,
        reason="NO_ROOM" if refused else "NO_CELL",
        message="no place can take it now" if refused else "no place that reaches what it needs answers now",
        fix="wait, or ask for a smaller flavor" if refused else "wait: it goes on by itself",
        observed_generation=generation,
        operator_message=f"no cell was chosen: {reasons}",
    )
    condition.since.FromDatetime(clock.now())
    return condition
