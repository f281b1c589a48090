"""Servers: one transaction makes a server with its ports, root volume and attachment; verbs change what it is asked to be."""

from collections.abc import AsyncIterator
from typing import Any

from controller.region.compute import children
from controller.region.compute.consoles import Consoles
from controller.region.compute.interfaces import Interfaces
from controller.region.create import Creatable, Outcome
from controller.region.network.port import usage_of as usage_of_port
from controller.region.resolve import require_room_for, require_verb, resolve, usable_image
from controller.region.secrets import user_data_key
from controller.region.standard import Region
from controller.region.storage.volume import require_same_pool
from controller.region.storage.volume import usage_of as usage_of_volume
from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.errors import FailedPrecondition
from kumo.ids import new_uid
from kumo.pool_verbs import Verb
from kumo.rpc.identity import Context
from kumo.store.txn import Txn


class Servers(Creatable[Server]):
    def __init__(self, region: Region, consoles: Consoles) -> None:
        super().__init__(region, region.tables.servers, server_pb2.DESCRIPTOR.services_by_name["Servers"])
        self._consoles = consoles

    async def CreateServer(self, request: Any, _context: Context) -> Server:
        async def fill(txn: Txn) -> Outcome[Server]:
            server, project_uid = await self.draft(request)
            user_data = server.spec.user_data
            server.spec.ClearField("user_data")
            server.spec.power = Server.RUNNING
            disk = await self._resolve(server)
            interfaces = Interfaces(self.region, txn)
            await interfaces.add(server)
            volume = await self._add_root_disk(txn, server, disk)
            if user_data:
                txn.put(user_data_key(server.uid), user_data)
            usage = _sum(usage_of(server), usage_of_volume(volume), *(usage_of_port(port) for port in interfaces.made))
            return Outcome(self.created(txn, server), project_uid, usage)

        return await self.once(request, fill)

    async def StartServer(self, request: Any, _context: Context) -> Server:
        def start(server: Server) -> None:
            server.spec.power, server.spec.hard = Server.RUNNING, False

        return await self._change_power(request, start, "STARTING", "it was asked to run")

    async def StopServer(self, request: Any, _context: Context) -> Server:
        is_hard = request.mode == server_pb2.STOP_MODE_HARD

        def stop(server: Server) -> None:
            server.spec.power, server.spec.hard = Server.OFF, is_hard

        return await self._change_power(request, stop, "STOPPING", f"it was asked to stop{' at once' if is_hard else ''}")

    async def RebootServer(self, request: Any, _context: Context) -> Server:
        is_hard = request.mode == server_pb2.REBOOT_MODE_HARD

        def reboot(server: Server) -> None:
            if server.spec.power != Server.RUNNING:
                raise FailedPrecondition(
                    "SERVER_OFF", f"{server.name} is stopped, so that it cannot be rebooted", fix="start it", name=server.name
                )
            server.spec.reboots += 1
            server.spec.hard = is_hard

        return await self._change_power(request, reboot, "REBOOTING", f"a {'hard' if is_hard else 'soft'} reboot was asked for")

    async def AttachConsole(self, requests: AsyncIterator[Any], _context: Context) -> AsyncIterator[Any]:
        async for answer in self._consoles.attach(requests, self.read):
            yield answer

    async def ReadConsoleLog(self, request: Any, _context: Context) -> AsyncIterator[Any]:
        async for answer in self._consoles.read_log(request, await self.read(request.name)):
            yield answer

    async def begin_end(self, txn: Txn, record: Server) -> Server:
        """Mark what goes with the server together with it, so that a cell is never told of one without the other."""
        tables, revision = self.region.tables, self.table.etags.revision(record.etag)
        for attachment in await tables.attachments.find("server", record.uid, min_revision=revision):
            self.mark_deleted(txn, tables.attachments, attachment)
        for volume in await tables.volumes.find("owner", record.uid, min_revision=revision):
            self.mark_deleted(txn, tables.volumes, volume)
        for port in await tables.ports.find("server", record.uid, min_revision=revision):
            if port.owner_uid == record.uid:
                self.mark_deleted(txn, tables.ports, port)
        return await super().begin_end(txn, record)

    async def _resolve(self, server: Server) -> children.Disk:
        """Fill in what the names in the request stand for; return what the root disk has to be."""
        plane, tables, spec = self.region.plane, self.region.tables, server.spec
        flavor = await resolve(plane, tables.flavors, spec.flavor, "server.spec.flavor")
        spec.flavor_uid, spec.vcpus, spec.memory_mib = flavor.uid, flavor.spec.vcpus, flavor.spec.memory_mib
        image = await usable_image(plane, tables.images, spec.image, "server.spec.image")
        spec.image_uid = image.uid
        spec.disk_gib = spec.disk_gib or flavor.spec.disk_gib
        require_room_for(image, spec.disk_gib, "server.spec.disk_gib")
        require_same_pool(spec.pool, image.spec.pool, image.name, "server.spec.pool")
        spec.pool, spec.pool_uid = image.spec.pool, image.spec.pool_uid
        require_verb(await tables.pools.get_by_uid(spec.pool_uid), Verb.CLONE, "server.spec.image")
        return children.Disk(spec.disk_gib, spec.pool, spec.pool_uid)

    async def _add_root_disk(self, txn: Txn, server: Server, disk: children.Disk) -> Volume:
        tables = self.region.tables
        names = [children.child_name(server, collection, "root") for collection in ("volumes", "attachments")]
        taken = [name for name in names if await tables.volumes.get(name) or await tables.attachments.get(name)]
        volume_name, attachment_name = (children.child_name(server, collection, "root", taken) for collection in ("volumes", "attachments"))
        volume = children.root_volume_of(server, disk, new_uid(), volume_name)
        attachment = children.root_attachment_of(server, volume, new_uid(), attachment_name)
        txn.create(tables.volumes, volume)
        txn.create(tables.attachments, attachment)
        return volume

    async def _change_power(self, request: Any, change: Any, reason: str, message: str) -> Server:
        """Commit a verb; one that asks for what is asked for already changes nothing, but is remembered as done."""

        async def fill(txn: Txn) -> Outcome[Server]:
            old = await self.read_to_change(request.name)
            self.require_etag(old, request.etag)
            self.require_alive(old)
            new = Server()
            new.CopyFrom(old)
            change(new)
            stored = txn.update_intent(self.table, old, new)
            if stored is not new:
                self.region.events.add(txn, stored, reason, message)
            return Outcome(stored)

        return await self.once(request, fill)


def usage_of(server: Server) -> dict[str, int]:
    return {"servers": 1, "vcpus": server.spec.vcpus, "memory_mib": server.spec.memory_mib}


def _sum(*usages: dict[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for usage in usages:
        for kind, amount in usage.items():
            total[kind] = total.get(kind, 0) + amount
    return total
