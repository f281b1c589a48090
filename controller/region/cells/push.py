"""Tells one cell what shall be: for each thing that it holds a share of, the whole intent, until the cell has taken it.

It runs with the region's leader alone and remembers nothing: what was told is compared with what the cell said that it holds, so
that after a disconnect of any length, or under a new leader, only what differs is told again.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from controller.region.cells.link import Link
from controller.region.cells.order import NOTHING, Beside, is_ahead, is_settled, order
from controller.region.cells.shares import Own
from controller.region.cells.wake import keys_of, woken
from controller.region.secrets import user_data_key
from controller.region.tables import Tables, by_kind
from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.type.v1.placement_pb2 import Share
from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp, Term
from kumo.clock import Clock
from kumo.errors import FailedPrecondition
from kumo.log import get_logger
from kumo.loop import Loop
from kumo.names import project_of
from kumo.store import term as store
from kumo.store.plane import Plane

log = get_logger(__name__)

_TELL_S = 10.0
_WORKERS = 16
_STALE = "STALE_COMMAND"


@dataclass(frozen=True)
class _Told:
    """What the cell has taken of one thing."""

    held: Stamp
    withdrawn: bool


class Push:
    """The pushes to one cell in one term. Keys of the loop are KIND/UID."""

    def __init__(self, plane: Plane, tables: Tables, link: Link, term: store.Term, clock: Clock) -> None:
        self._plane, self._tables, self._link, self._term = plane, tables, link, term
        self._sequence = itertools.count(1)
        self._told: dict[str, _Told] = {}
        self._is_connected = False
        self._by_kind = by_kind(tables)
        self.loop = Loop(f"push-{link.cell}", self._reconcile, workers=_WORKERS, clock=clock, keys=keys_of(self._by_kind))

    async def run(self) -> None:
        """Push for ever what connected() found to differ and what changes."""
        with woken(self.loop, self._by_kind):
            await self.loop.run()

    async def connected(self, held: Sequence[cell_pb2.Held]) -> None:
        """Take `held` for all that the cell has been told, adopt what is later than what the store knows, and push what differs."""
        self._told = {one.uid: _Told(one.stamp, withdrawn=False) for one in held}
        for one in held:
            await self._adopt(one)
        self._is_connected = True
        for kind, table in self._by_kind.items():
            for uid in await table.uids():
                self.loop.add(f"{kind}/{uid}")

    async def unknown(self, uids: Iterable[str]) -> list[str]:
        """Return those that are no server and no port of this region's: the store went back to a time before them."""
        await self._plane.caught_up(await self._plane.revision())
        tables = (self._tables.servers, self._tables.ports)
        return [uid for uid in uids if not any([await table.get_by_uid(uid) for table in tables])]

    def disconnected(self) -> None:
        """Tell nothing until the next connected(), which looks at everything."""
        self._is_connected = False

    async def _reconcile(self, key: str) -> float | None:
        kind, uid = key.split("/")
        if not self._is_connected:
            return None  # connected() adds every key
        parts = await self._by_kind[kind].parts(uid)
        if parts is None:
            self._told.pop(uid, None)
            return None
        share = Own.of(parts.placement).share_of(self._link.cell)
        if share is None or not _is_to_be_told(parts.intent, share) or self._was_told(parts.intent, share):
            return None
        await self._tell(parts.intent, parts.intent_revision, share)
        return None

    def _was_told(self, record: Any, share: Share) -> bool:
        told = self._told.get(record.uid)
        if told is None or told.withdrawn != share.withdrawn:
            return False
        return is_settled(told.held, share.epoch, record.generation)

    async def _tell(self, record: Any, revision: int, share: Share) -> None:
        request = order(record, await self._beside(record, revision), withdrawn=share.withdrawn)
        request.stamp.CopyFrom(self._stamp(record, share))

        async def apply(channel: Any) -> cell_pb2.ApplyIntentResponse:
            answer: cell_pb2.ApplyIntentResponse = await cell_pb2_grpc.IntentsStub(channel).ApplyIntent(request, timeout=_TELL_S)
            return answer

        try:
            answer = await self._link.call(apply)
        except FailedPrecondition as error:
            if error.reason == _STALE:
                # A later term, or numbers from before a restore: what the cell holds is read again with the next connection.
                log.warning("cell holds something later", cell=self._link.cell, name=record.name, why=error.message)
            raise
        self._told[record.uid] = _Told(answer.held, share.withdrawn)
        log.info("told cell", cell=self._link.cell, name=record.name, generation=record.generation, epoch=share.epoch)

    def _stamp(self, record: Any, share: Share) -> Stamp:
        term = Term(incarnation=self._term.incarnation, create_revision=self._term.create_revision)
        return Stamp(term=term, sequence=next(self._sequence), epoch=Epoch(cell=share.epoch), generation=record.generation)

    async def _beside(self, record: Any, revision: int) -> Beside:
        """`revision` is that of the intent, which changes with each of its subnets."""
        if isinstance(record, Network):
            subnets = await self._tables.subnets.find("network", record.uid, min_revision=revision)
            return Beside(subnets=tuple(subnets))
        if isinstance(record, Server):
            project = await self._tables.projects.get(project_of(record.name))
            user_data = await self._plane.read(user_data_key(record.uid))
            return Beside(
                user_data=user_data.value if user_data is not None else b"", project_uid=project.uid if project is not None else ""
            )
        return NOTHING

    async def _adopt(self, held: cell_pb2.Held) -> None:
        """Bring the store's own numbers up to those of the cell: the store went back in time, the cell did not."""
        table = self._by_kind.get(held.kind)
        parts = await table.parts(held.uid) if table is not None else None
        if table is None or parts is None:
            return
        own, record = Own.of(parts.placement), parts.intent
        share = own.share_of(self._link.cell)
        epoch = share.epoch if share is not None else 0
        is_restored = held.stamp.term.incarnation != self._term.incarnation
        is_rival = is_restored and held.stamp.generation >= record.generation
        if share is not None and not is_rival and not is_ahead(held.stamp, epoch, record.generation):
            return
        txn = self._plane.txn(fence=self._term)
        if share is None or held.stamp.epoch.cell > epoch:
            adopted = own.given_to(self._link.cell, held.stamp.epoch.cell)
            txn.write_placement(table, held.uid, adopted.part(record))
        if is_rival:
            later = type(record)()
            later.CopyFrom(record)
            later.generation = held.stamp.generation + 1
            txn.update_intent(table, record, later)
        await txn.commit()
        log.info("adopted from cell", cell=self._link.cell, name=record.name, epoch=held.stamp.epoch.cell, generation=held.stamp.generation)


def _is_to_be_told(record: Any, share: Share) -> bool:
    """A cell that refused a thing hears of it again only when it is to forget it."""
    if share.answer == Share.REFUSED:
        return share.withdrawn or bool(record.HasField("delete_time"))
    return share.answer != Share.ENDED
