"""The network interfaces of a new server: a port is made for each that names a network, or the port that it names is plugged in."""

from typing import Any

from controller.region.compute import children
from controller.region.network.allocate import Allocator, network_of
from controller.region.network.subnet import require_same_project
from controller.region.resolve import resolve
from controller.region.standard import Region
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.network.v1.port_pb2 import Port
from kumo.errors import FailedPrecondition, InvalidArgument
from kumo.ids import new_uid
from kumo.store.txn import Txn


class Interfaces:
    """Serves one transaction; `made` are the ports that it adds."""

    def __init__(self, region: Region, txn: Txn) -> None:
        self._region, self._txn = region, txn
        self._allocator = Allocator(region.plane, region.tables, txn)
        self.made: list[Port] = []

    async def add(self, server: Server) -> None:
        """Complete server.spec.nics and have the transaction store their ports. Raises kumo.errors, naming the field."""
        used: set[str] = set()
        for index, nic in enumerate(server.spec.nics):
            field = f"server.spec.nics[{index}]"
            if bool(nic.network) == bool(nic.port):
                raise InvalidArgument(
                    "NETWORK_OR_PORT",
                    f"{field} names {'both a network and a port' if nic.port else 'neither a network nor a port'}",
                    field=field,
                    fix="name one of the two",
                )
            if not nic.port:
                await self._make(server, index, field)
                continue
            if nic.port in used:
                raise InvalidArgument("PORT_TWICE", f"{nic.port} is named twice", field=f"{field}.port", fix="name each port once")
            used.add(nic.port)
            await self._use(server, index, field)

    async def _make(self, server: Server, index: int, field: str) -> None:
        network = await network_of(
            self._region.plane, self._region.tables, server.spec.nics[index].network, server.name, f"{field}.network"
        )
        name = children.child_name(server, "ports", str(index))
        if await self._region.tables.ports.get(name) is not None:
            name = children.child_name(server, "ports", str(index), [name])
        port = children.port_of(server, index, network, new_uid(), name)
        await self._allocator.fill(port, network, field)
        self.made.append(self._txn.create(self._region.tables.ports, port))

    async def _use(self, server: Server, index: int, field: str) -> None:
        named = f"{field}.port"
        old: Any = await resolve(self._region.plane, self._region.tables.ports, server.spec.nics[index].port, named)
        require_same_project(old.name, server.name, named)
        if old.spec.server_uid or old.owner_uid:
            user = old.spec.server or old.owner
            raise FailedPrecondition(
                "PORT_IN_USE", f"{old.name} is used by {user}", field=named, fix="name another port, or delete that server", server=user
            )
        port = Port()
        port.CopyFrom(old)
        children.plug(port, server, index)
        self._txn.update_intent(self._region.tables.ports, old, port)
