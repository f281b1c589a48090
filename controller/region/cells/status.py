"""Takes up what one cell says: keeps its facts as they are, with the place to go on, and notices when it falls silent.

It runs with the region's leader alone. What follows from the facts is others': placement goes on in place, ends in ends.
"""

import asyncio
from contextlib import suppress
from datetime import datetime

from prometheus_client import Gauge

from controller.region.cells.intake import Intake
from controller.region.cells.link import Link
from controller.region.cells.push import Push
from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.fleet.v1.cell_pb2 import Cell
from kumo.api.type.v1 import stamp_pb2
from kumo.clock import Clock
from kumo.errors import Aborted, Error, InvalidArgument, Unavailable
from kumo.log import get_logger
from kumo.rpc.client import opened
from kumo.store.errors import Conflict, Deposed
from kumo.store.plane import Plane
from kumo.store.table import Table
from kumo.store.term import Term

log = get_logger(__name__)

STALENESS = Gauge("kumo_cell_staleness_seconds", "How long ago the region heard a cell, while this process leads the region.", ["cell"])

SILENT_S = 5.0
# A new leader has heard nothing at all yet: what the store says of a cell was so under the one before, perhaps long ago.
_FIRST_WORD_S = 1.5
_CHECK_S = 0.5
_RETRY_S = 0.5
_ACKNOWLEDGE_S = 10.0
_LISTED = 20


class StatusWatch:
    """The watch of one cell in one term."""

    def __init__(self, plane: Plane, cells: Table[Cell], link: Link, term: Term, clock: Clock, intake: Intake) -> None:
        self._plane, self._cells, self._link, self._term, self._clock, self._intake = plane, cells, link, term, clock, intake
        self._heard_at: float | None = None
        self._heard_time: datetime | None = None
        self._began_at = clock.monotonic()

    @property
    def wire_term(self) -> stamp_pb2.Term:
        return stamp_pb2.Term(incarnation=self._term.incarnation, create_revision=self._term.create_revision)

    async def run(self, push: Push) -> None:
        """Follow the cell for ever; `push` is given all that the cell holds, each time before its facts are followed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._notice_silence())
                while True:
                    try:
                        await self._follow(push)
                    except Deposed:
                        raise
                    except (Error, TimeoutError) as error:
                        push.disconnected()
                        why = error.message if isinstance(error, Error) else f"nothing was heard for {SILENT_S:.0f} s"
                        log.warning("cell not followed", cell=self._link.cell, why=why)
                        await self._clock.sleep(_RETRY_S)
        finally:
            # Another leads now, and knows how old what it has is.
            with suppress(KeyError):
                STALENESS.remove(self._link.cell)

    async def _follow(self, push: Push) -> None:
        async with self._link.stream() as channel:
            stub = cell_pb2_grpc.IntentsStub(channel)
            async with asyncio.timeout(SILENT_S):
                held = [one async for one in stub.ListHeld(cell_pb2.ListHeldRequest())]
            await push.connected(held)
            cell = await self._cell()
            request = cell_pb2.WatchFactsRequest(term=self.wire_term, resume_token=cell.status.resume_token)
            try:
                await self._read(stub, request, push)
            except (Aborted, InvalidArgument) as error:
                if isinstance(error, Conflict | Deposed) or not request.resume_token:
                    raise
                log.info("cell is read from the beginning", cell=self._link.cell, reason=error.reason, why=error.message)
                request.resume_token = ""
                await self._read(stub, request, push)

    async def _read(self, stub: "cell_pb2_grpc.IntentsAsyncStub", request: cell_pb2.WatchFactsRequest, push: Push) -> None:
        named: set[str] = set()
        is_snapshot = not request.resume_token
        async with opened(stub.WatchFacts(request)) as stream:
            while True:
                async with asyncio.timeout(SILENT_S):
                    facts = await stream.read()
                if not isinstance(facts, cell_pb2.Facts):
                    raise Unavailable("FACTS_ENDED", f"cell {self._link.cell} ended the stream of facts", cell=self._link.cell)
                await self._heard()
                if facts.strangers:
                    await self._disown(stub, await push.unknown(facts.strangers))
                if not facts.facts and not facts.complete:
                    continue
                named |= {fact.uid for fact in facts.facts} if is_snapshot else set()
                ended = await self._intake.take(facts)
                if facts.complete:
                    await self._intake.drop_hosts_but(named)
                    named, is_snapshot = set(), False
                if ended:
                    acknowledgement = cell_pb2.AcknowledgeEndsRequest(term=self.wire_term, uids=ended)
                    await stub.AcknowledgeEnds(acknowledgement, timeout=_ACKNOWLEDGE_S)

    async def _disown(self, stub: "cell_pb2_grpc.IntentsAsyncStub", uids: list[str]) -> None:
        """Have the cell take away what neither of us knows. A host that fails at it is asked again with the next heartbeat."""
        if not uids:
            return
        log.warning("strangers disowned", cell=self._link.cell, count=len(uids), uids=uids[:_LISTED])
        with suppress(Unavailable):
            await stub.Disown(cell_pb2.DisownRequest(term=self.wire_term, uids=uids), timeout=_ACKNOWLEDGE_S)

    async def _heard(self) -> None:
        self._heard_at, self._heard_time = self._clock.monotonic(), self._clock.now()
        if (await self._cell()).status.state != Cell.HEARD:
            await self._write_state(Cell.HEARD, self._heard_time)

    async def _notice_silence(self) -> None:
        while True:
            await self._clock.sleep(_CHECK_S)
            last = self._began_at if self._heard_at is None else self._heard_at
            STALENESS.labels(self._link.cell).set(self._clock.monotonic() - last)
            if self._clock.monotonic() - last < (_FIRST_WORD_S if self._heard_at is None else SILENT_S):
                continue
            try:
                if (await self._cell()).status.state == Cell.HEARD:
                    await self._write_state(Cell.SILENT, self._heard_time or self._clock.now())
            except Unavailable as error:
                log.warning("silence not recorded", cell=self._link.cell, reason=error.reason, why=error.message)

    async def _write_state(self, state: "Cell.State.ValueType", since: datetime) -> None:
        """Keep that the cell is heard, or is not; only changes of this are ever written."""
        for _ in range(3):
            cell = await self._cell()
            cell.status.state = state
            cell.status.since.FromDatetime(since)
            txn = self._plane.txn(fence=self._term)
            txn.write_status(self._cells, cell.uid, cell)
            try:
                await txn.commit()
            except Conflict:
                continue
            log.info("cell is heard" if state == Cell.HEARD else "cell is silent", cell=self._link.cell)
            return

    async def _cell(self) -> Cell:
        cell = await self._cells.get(f"cells/{self._link.cell}")
        if cell is None:
            raise Unavailable("CELL_UNKNOWN", f"cell {self._link.cell} is not recorded yet", fix="try again")
        return cell
