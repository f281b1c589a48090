"""Takes an address and a MAC for a port, in the transaction that stores the port: each is a key of its own that nobody else has."""

from ipaddress import IPv4Address

from controller.region.network.addresses import Range, candidates, mac_of, parse_range
from controller.region.network.subnet import require_same_project
from controller.region.resolve import resolve
from controller.region.tables import Tables
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.network.v1.subnet_pb2 import Subnet
from kumo.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from kumo.ids import new_uid
from kumo.store.plane import Plane
from kumo.store.txn import Txn


class Allocator:
    """Serves one transaction: what it has given out there, it does not give out again."""

    def __init__(self, plane: Plane, tables: Tables, txn: Txn) -> None:
        self._plane, self._tables, self._txn = plane, tables, txn
        self._given: set[str] = set()

    async def fill(self, port: Port, network: Network, field: str) -> None:
        """Complete `port`, which may name a subnet and an address, and have the transaction take what it gets.

        `field` is where the request speaks of the port. Raises FailedPrecondition, InvalidArgument or ResourceExhausted.
        """
        subnets = await self._subnets(port, network, field)
        # A new seed each time: whoever tries again after meeting another does not meet it again.
        seed = new_uid().encode()
        is_asked = bool(port.spec.address)
        if is_asked:
            subnet, address = _asked(port, subnets, field)
        else:
            subnet, address = self._free(network, subnets, seed, field)
        spec = port.spec
        spec.subnet, spec.subnet_uid, spec.address = subnet.name, subnet.uid, str(address)
        spec.prefix_length = range_of(subnet).network.prefixlen
        spec.mac = mac_of(seed)
        self._take(address_key(port), port.uid, _taken(subnet, address, field) if is_asked else None)
        self._take(mac_key(port), port.uid, None)

    async def _subnets(self, port: Port, network: Network, field: str) -> list[Subnet]:
        """Return where the address may come from, in the order of their making."""
        if port.spec.subnet:
            subnet = await resolve(self._plane, self._tables.subnets, port.spec.subnet, f"{field}.spec.subnet")
            if subnet.spec.network_uid != network.uid:
                message = f"{subnet.name} is a subnet of {subnet.spec.network}, not of {network.name}"
                raise InvalidArgument(
                    "SUBNET_ELSEWHERE", message, field=f"{field}.spec.subnet", fix=f"name a subnet of {network.name}", value=subnet.name
                )
            return [subnet]
        subnets = await self._tables.subnets.find("network", network.uid)
        if not subnets:
            subnets = await self._tables.subnets.find("network", network.uid, min_revision=await self._plane.revision())
        if not subnets:
            raise FailedPrecondition(
                "NO_SUBNET",
                f"{network.name} has no subnet to take an address from",
                field=field,
                fix="create a subnet on it",
                network=network.name,
            )
        return sorted(subnets, key=lambda subnet: subnet.uid)

    def _free(self, network: Network, subnets: list[Subnet], seed: bytes, field: str) -> tuple[Subnet, IPv4Address]:
        for subnet in subnets:
            addresses = range_of(subnet)
            if self._count(subnet) >= addresses.count:
                continue
            for address in candidates(addresses, seed):
                if not self._is_taken(subnet, address):
                    return subnet, address
        counts = ", ".join(f"{range_of(subnet).count} of {subnet.name}" for subnet in subnets)
        raise ResourceExhausted(
            "NO_FREE_ADDRESS",
            f"all addresses that {network.name} has are taken: {counts}",
            field=field,
            fix="add a subnet to it, or delete ports that are not needed",
            network=network.name,
        )

    def _count(self, subnet: Subnet) -> int:
        given = sum(key.startswith(f"address/{subnet.uid}/") for key in self._given)
        return self._tables.ports.mirror.replica.count("subnet", subnet.uid) + given

    def _is_taken(self, subnet: Subnet, address: IPv4Address) -> bool:
        found = self._tables.ports.mirror.replica.find("address", f"{subnet.uid}/{address}")
        return bool(found) or address_key_of(subnet.uid, address) in self._given

    def _take(self, key: str, uid: str, taken: Exception | None) -> None:
        self._given.add(key)
        self._txn.require_absent(key, taken)
        self._txn.put(key, uid.encode())


def _taken(subnet: Subnet, address: IPv4Address, field: str) -> FailedPrecondition:
    return FailedPrecondition(
        "ADDRESS_TAKEN",
        f"{address} on {subnet.name} is taken",
        field=f"{field}.spec.address",
        fix="ask for another one, or for none",
        address=str(address),
    )


def _asked(port: Port, subnets: list[Subnet], field: str) -> tuple[Subnet, IPv4Address]:
    address = IPv4Address(port.spec.address)
    for subnet in subnets:
        if range_of(subnet).offers(address):
            return subnet, address
    ranges = ", ".join(f"{subnet.spec.cidr} of {subnet.name}" for subnet in subnets)
    message = f"{address} is none that a port can have: there is {ranges}, less first, last and gateway"
    raise InvalidArgument(
        "ADDRESS_OUTSIDE", message, field=f"{field}.spec.address", fix="ask for one within, or for none", value=str(address)
    )


def range_of(subnet: Subnet) -> Range:
    return parse_range(subnet.spec.cidr, subnet.spec.gateway)


def address_key_of(subnet_uid: str, address: IPv4Address | str) -> str:
    return f"address/{subnet_uid}/{address}"


def address_key(port: Port) -> str:
    return address_key_of(port.spec.subnet_uid, port.spec.address)


def mac_key(port: Port) -> str:
    return f"mac/{port.spec.mac}"


async def network_of(plane: Plane, tables: Tables, name: str, user: str, field: str) -> Network:
    """Return the network that `user` may use. Raises NotFound, FailedPrecondition or InvalidArgument."""
    network = await resolve(plane, tables.networks, name, field)
    require_same_project(network.name, user, field)
    return network
