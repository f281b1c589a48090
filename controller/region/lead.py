"""What the region's leader does in its term, and nobody else: records the cells, follows and feeds them, places, frees, sweeps."""

import asyncio

from controller.region.cells.ends import Ends
from controller.region.cells.intake import Intake
from controller.region.cells.link import Link, Links
from controller.region.cells.place import Place
from controller.region.cells.push import Push
from controller.region.cells.status import StatusWatch
from controller.region.standard import Region
from controller.region.sweep import Sweep
from kumo.api.fleet.v1.cell_pb2 import Cell
from kumo.clock import Clock
from kumo.store.term import Term


class Leader:
    def __init__(self, region: Region, links: Links, clock: Clock) -> None:
        self._region, self._links, self._clock = region, links, clock

    async def lead(self, term: Term) -> None:
        """Work until cancelled, which is when the term ends."""
        region, links = self._region, self._links.all()
        for link in links:
            await self._record_cell(link, term)
        place = Place(region.plane, region.tables, [link.cell for link in links], term, self._clock)
        ends = Ends(region, term, self._clock)
        sweep = Sweep(region.plane, region.tables.events, term, self._clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(place.run())
            tasks.create_task(ends.run())
            tasks.create_task(sweep.run())
            for link in links:
                push = Push(region.plane, region.tables, link, term, self._clock)
                intake = Intake(region.plane, region.tables, region.events, term, link.cell)
                watch = StatusWatch(region.plane, region.tables.cells, link, term, self._clock, intake)
                tasks.create_task(push.run())
                tasks.create_task(watch.run(push))

    async def _record_cell(self, link: Link, term: Term) -> None:
        """Keep the cell as the configuration has it."""
        cells, name = self._region.tables.cells, f"cells/{link.cell}"
        old = await cells.get(name)
        if old is not None and dict(old.spec.controllers) == link.controllers:
            return
        txn = self._region.plane.txn(fence=term)
        if old is None:
            txn.create(cells, Cell(name=name, spec=Cell.Spec(controllers=link.controllers)))
        else:
            new = Cell()
            new.CopyFrom(old)
            new.spec.controllers.clear()
            new.spec.controllers.update(link.controllers)
            txn.update_intent(cells, old, new)
        await txn.commit()
