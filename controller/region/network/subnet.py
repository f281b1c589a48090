"""Subnets: ranges of addresses on a network. Making or ending one is a change of the network, which is what cells are told.

That is also what keeps two subnets that overlap from being made at the same time: both change the same network.
"""

from typing import Any

from controller.region.create import Creatable, Outcome
from controller.region.network.addresses import overlapping, parse_range
from controller.region.resolve import resolve
from controller.region.standard import Region
from kumo.api.network.v1 import subnet_pb2
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.subnet_pb2 import Subnet
from kumo.errors import FailedPrecondition, InvalidArgument
from kumo.names import project_of
from kumo.rpc.identity import Context
from kumo.store.errors import Conflict
from kumo.store.txn import Txn


class Subnets(Creatable[Subnet]):
    changeable = ("labels", "spec.dns_servers")

    def __init__(self, region: Region) -> None:
        super().__init__(region, region.tables.subnets, subnet_pb2.DESCRIPTOR.services_by_name["Subnets"])

    async def CreateSubnet(self, request: Any, _context: Context) -> Subnet:
        async def fill(txn: Txn) -> Outcome[Subnet]:
            subnet, project_uid = await self.draft(request)
            spec = subnet.spec
            addresses = parse_range(spec.cidr, spec.gateway)
            spec.gateway = str(addresses.gateway)
            network = await resolve(self.region.plane, self.region.tables.networks, spec.network, "subnet.spec.network")
            require_same_project(network.name, subnet.name, "subnet.spec.network")
            spec.network_uid = network.uid
            await self._require_no_overlap(subnet, network)
            self._change_network(txn, network)
            return Outcome(self.created(txn, subnet), project_uid, usage_of(subnet))

        return await self.once(request, fill)

    async def before_update(self, txn: Txn, old: Subnet, new: Subnet) -> None:
        await self._change_network_of(txn, new)

    async def begin_end(self, txn: Txn, record: Subnet) -> Subnet:
        """Nobody uses it, or the commit refuses; then the cells' copies of the network follow."""
        await self._change_network_of(txn, record)
        gone: Subnet = self.removed(txn, record)
        return gone

    def usage_at_end(self, record: Subnet) -> dict[str, int]:
        return {kind: -amount for kind, amount in usage_of(record).items()}

    async def _require_no_overlap(self, subnet: Subnet, network: Network) -> None:
        """All subnets that had been made when `network` was read have to be seen; one made since is a Conflict on the network."""
        seen = self.region.tables.networks.etags.revision(network.etag)
        others = {other.name: other.spec.cidr for other in await self.table.find("network", network.uid, min_revision=seen)}
        found = overlapping(subnet.spec.cidr, others)
        if found is not None:
            raise FailedPrecondition(
                "SUBNET_OVERLAPS",
                f"{subnet.spec.cidr} overlaps {others[found]} of {found} on the same network",
                field="subnet.spec.cidr",
                fix="choose another range, or another network",
                cidr=subnet.spec.cidr,
                other=found,
            )

    async def _change_network_of(self, txn: Txn, subnet: Subnet) -> None:
        network = await self.region.tables.networks.get_by_uid(subnet.spec.network_uid)
        if network is None:
            raise Conflict(subnet.spec.network)
        self._change_network(txn, network)

    def _change_network(self, txn: Txn, network: Network) -> None:
        changed = Network()
        changed.CopyFrom(network)
        changed.generation += 1
        txn.update_intent(self.region.tables.networks, network, changed)


def usage_of(_subnet: Subnet) -> dict[str, int]:
    return {"subnets": 1}


def require_same_project(name: str, user: str, field: str) -> None:
    """Raises InvalidArgument if `name` lies in another project than `user`, which wants to use it."""
    if project_of(name) != project_of(user):
        raise InvalidArgument(
            "OTHER_PROJECT", f"{name} is not in {project_of(user)}", field=field, fix=f"name one that is in {project_of(user)}", value=name
        )
