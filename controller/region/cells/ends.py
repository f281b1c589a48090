"""Frees what was deleted once no cell has anything of it left: record, name, addresses and usage go in one transaction.

What belongs to a server goes with it. Runs with the region's leader; told which thing, it looks at all that goes together.
"""

from typing import Any

from controller.region.cells.shares import Own
from controller.region.cells.wake import keys_of, woken
from controller.region.compute.server import usage_of as usage_of_server
from controller.region.image.image import usage_of as usage_of_image
from controller.region.network.allocate import address_key, mac_key
from controller.region.network.network import usage_of as usage_of_network
from controller.region.network.network import vni_key
from controller.region.network.port import usage_of as usage_of_port
from controller.region.secrets import user_data_key
from controller.region.standard import Region
from controller.region.storage.volume import usage_of as usage_of_volume
from controller.region.tables import by_kind
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.clock import Clock
from kumo.log import get_logger
from kumo.loop import Loop
from kumo.names import project_of
from kumo.store.term import Term
from kumo.store.txn import Txn

log = get_logger(__name__)

_WORKERS = 8


class Ends:
    """The finalizer of one term. Keys of the loop are KIND/UID."""

    def __init__(self, region: Region, term: Term, clock: Clock) -> None:
        self._plane, self._tables, self._events, self._usage = region.plane, region.tables, region.events, region.usage
        self._term = term
        self._by_kind = by_kind(region.tables)
        self.loop = Loop("ends", self._reconcile, workers=_WORKERS, clock=clock, keys=keys_of(self._by_kind))

    async def run(self) -> None:
        with woken(self.loop, self._by_kind):
            await self.loop.run()

    async def _reconcile(self, key: str) -> float | None:
        kind, uid = key.split("/")
        parts = await self._by_kind[kind].parts(uid)
        record: Any = parts.intent if parts is not None else None
        if parts is None or not record.HasField("delete_time"):
            return None
        owner_uid = getattr(record, "owner_uid", "")
        if owner_uid and await self._tables.servers.get_by_uid(owner_uid) is not None:
            self.loop.add(f"server/{owner_uid}")
            return None
        # What goes with a server was given to cells with it: only as of then is it known whether they have anything left.
        children = await self._children(record, max(parts.intent_revision, parts.placement_revision)) if isinstance(record, Server) else []
        if Own.of(parts.placement).held or any(Own.of(child).held for child in children):
            return None
        await self._free(record, [*children, record])
        return None

    async def _free(self, record: Any, going: list[Any]) -> None:
        txn = self._plane.txn(fence=self._term)
        usage: dict[str, int] = {}
        for one in going:
            txn.delete(self._table(one), one)
            for kind, amount in _free_own(txn, one).items():
                usage[kind] = usage.get(kind, 0) - amount
        if isinstance(record, Server):
            await self._unplug(txn, record)
        self._events.add(txn, record, "DELETED", "it is gone, and its name is free")
        project = await self._tables.projects.get(project_of(record.name))
        await self._usage.commit(txn, project.uid if project is not None else "", usage if project is not None else {})
        log.info("freed", name=record.name, records=len(going))

    async def _children(self, server: Server, revision: int) -> list[Any]:
        tables = self._tables
        ports = await tables.ports.find("server", server.uid, min_revision=revision)
        return [
            *await tables.attachments.find("server", server.uid, min_revision=revision),
            *await tables.volumes.find("owner", server.uid, min_revision=revision),
            *(port for port in ports if port.owner_uid == server.uid),
        ]

    async def _unplug(self, txn: Txn, server: Server) -> None:
        """Give ports that stand alone back to their users."""
        for port in await self._tables.ports.find("server", server.uid):
            if port.owner_uid == server.uid:
                continue
            free = Port()
            free.CopyFrom(port)
            free.spec.server = free.spec.server_uid = ""
            txn.update_intent(self._tables.ports, port, free)

    def _table(self, record: Any) -> Any:
        return self._by_kind[type(record).DESCRIPTOR.name.lower()]


def _free_own(txn: Txn, record: Any) -> dict[str, int]:
    """Have `txn` give back what only `record` has; return what it counted as in its project's usage."""
    match record:
        case Port():
            txn.delete_key(address_key(record))
            txn.delete_key(mac_key(record))
            return usage_of_port(record)
        case Server():
            txn.delete_key(user_data_key(record.uid))
            return usage_of_server(record)
        case Network():
            txn.delete_key(vni_key(record.spec.vni))
            return usage_of_network(record)
        case Volume():
            return usage_of_volume(record)
        case Image():
            return usage_of_image(record)
        case _:
            return {}
