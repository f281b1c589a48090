"""Ports: places on a network with an address and a MAC. One that stands alone stays in the region until a server uses it."""

from typing import Any

from controller.region.create import Creatable, Outcome
from controller.region.network.allocate import Allocator, network_of
from controller.region.standard import Region
from kumo.api.network.v1 import port_pb2
from kumo.api.network.v1.port_pb2 import Port
from kumo.rpc.identity import Context
from kumo.store.txn import Txn


class Ports(Creatable[Port]):
    def __init__(self, region: Region) -> None:
        super().__init__(region, region.tables.ports, port_pb2.DESCRIPTOR.services_by_name["Ports"])

    async def CreatePort(self, request: Any, _context: Context) -> Port:
        async def fill(txn: Txn) -> Outcome[Port]:
            port, project_uid = await self.draft(request)
            network = await network_of(self.region.plane, self.region.tables, port.spec.network, port.name, "port.spec.network")
            port.spec.network_uid = network.uid
            await Allocator(self.region.plane, self.region.tables, txn).fill(port, network, "port")
            return Outcome(self.created(txn, port), project_uid, usage_of(port))

        return await self.once(request, fill)


def usage_of(_port: Port) -> dict[str, int]:
    return {"ports": 1}
