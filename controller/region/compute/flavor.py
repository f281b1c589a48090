"""Flavors: sizes that operators offer. No cell knows of them: a server carries what its flavor said."""

from typing import Any

from controller.region.create import Creatable, Outcome
from controller.region.standard import Region
from kumo.api.compute.v1 import flavor_pb2
from kumo.api.compute.v1.flavor_pb2 import Flavor
from kumo.rpc.identity import Context
from kumo.store.txn import Txn


class Flavors(Creatable[Flavor]):
    def __init__(self, region: Region) -> None:
        super().__init__(region, region.tables.flavors, flavor_pb2.DESCRIPTOR.services_by_name["Flavors"])

    async def CreateFlavor(self, request: Any, _context: Context) -> Flavor:
        async def fill(txn: Txn) -> Outcome[Flavor]:
            flavor, _ = await self.draft(request)
            return Outcome(self.created(txn, flavor))

        return await self.once(request, fill)

    async def begin_end(self, txn: Txn, record: Flavor) -> Flavor:
        """Nothing outside the region has to end first."""
        gone: Flavor = self.removed(txn, record)
        return gone
