"""Networks: each has a VXLAN number that no other has, taken when it is made and given back when it is gone."""

import itertools
from typing import Any

from controller.region.create import Creatable, Outcome
from controller.region.network.addresses import vni_candidates
from controller.region.standard import Region
from kumo.api.network.v1 import network_pb2
from kumo.api.network.v1.network_pb2 import Network
from kumo.errors import Unavailable
from kumo.rpc.identity import Context
from kumo.store.plane import Plane
from kumo.store.txn import Txn

_TRIED_NUMBERS = 8


class Networks(Creatable[Network]):
    def __init__(self, region: Region) -> None:
        super().__init__(region, region.tables.networks, network_pb2.DESCRIPTOR.services_by_name["Networks"])

    async def CreateNetwork(self, request: Any, _context: Context) -> Network:
        async def fill(txn: Txn) -> Outcome[Network]:
            network, project_uid = await self.draft(request)
            network.spec.vni = await _free_vni(self.region.plane, network.uid)
            key = vni_key(network.spec.vni)
            txn.require_absent(key)
            txn.put(key, network.uid.encode())
            return Outcome(self.created(txn, network), project_uid, usage_of(network))

        return await self.once(request, fill)


def vni_key(vni: int) -> str:
    return f"vni/{vni}"


def usage_of(_network: Network) -> dict[str, int]:
    return {"networks": 1}


async def _free_vni(plane: Plane, uid: str) -> int:
    """There are sixteen million numbers, so that the first one is nearly always free; the commit takes none twice."""
    for vni in itertools.islice(vni_candidates(uid.encode()), _TRIED_NUMBERS):
        if await plane.read(vni_key(vni)) is None:
            return vni
    raise Unavailable("NO_FREE_VNI", f"{_TRIED_NUMBERS} VXLAN numbers that were tried are taken", fix="try again")
