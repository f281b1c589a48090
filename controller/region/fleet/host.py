"""Hosts: the cell's own, to which changes are passed on; what is read here is the copy that the cell streams up.

The region keeps which cell has which name. A version that a client saw is one of the copy, and goes to the cell as the cell's own.
"""

import asyncio
import contextlib
from typing import Any

from controller.region.cells.forward import Forward, caller
from controller.region.standard import Region, Standard
from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.fleet.v1 import host_pb2
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from kumo.names import join
from kumo.rpc.identity import Context
from kumo.store.errors import Conflict

_COPY_S = 2.0


class Hosts(Standard[Host]):
    def __init__(self, region: Region, forward: Forward) -> None:
        super().__init__(region, region.tables.hosts, host_pb2.DESCRIPTOR.services_by_name["Hosts"])
        self._forward = forward

    async def CreateHost(self, request: Any, _context: Context) -> Host:
        name, cell = join("", "hosts", request.host_id), request.host.spec.cell
        self._forward.require(cell)
        reserved = await self._reserve(name, cell, validate_only=request.validate_only)

        async def create(channel: Any, timeout_s: float) -> Host:
            asked = cell_pb2.CreateHostRequest(caller=caller(), request=request)
            host: Host = await cell_pb2_grpc.HostsStub(channel).CreateHost(asked, timeout=timeout_s)
            return host

        try:
            told = await self._forward.call(cell, create)
        except (InvalidArgument, AlreadyExists, FailedPrecondition):
            # Refused for certain; after anything else the host may be there.
            if reserved:
                await self._release(name, reserved)
            raise
        return await self._copied(told, validate_only=request.validate_only)

    async def UpdateHost(self, request: Any, _context: Context) -> Host:
        old = await self.read_to_change(request.host.name, field="host.name")
        self.require_etag(old, request.host.etag)
        request.host.etag = old.status.cell_etag if request.host.etag else ""

        async def update(channel: Any, timeout_s: float) -> Host:
            asked = cell_pb2.UpdateHostRequest(caller=caller(), request=request)
            host: Host = await cell_pb2_grpc.HostsStub(channel).UpdateHost(asked, timeout=timeout_s)
            return host

        return await self._copied(await self._forward.call(old.spec.cell, update), validate_only=request.validate_only)

    async def DeleteHost(self, request: Any, _context: Context) -> Host:
        old = await self.read_to_change(request.name)
        self.require_etag(old, request.etag)
        request.etag = old.status.cell_etag if request.etag else ""

        async def delete(channel: Any, timeout_s: float) -> Host:
            asked = cell_pb2.DeleteHostRequest(caller=caller(), request=request)
            host: Host = await cell_pb2_grpc.HostsStub(channel).DeleteHost(asked, timeout=timeout_s)
            return host

        return await self._copied(await self._forward.call(old.spec.cell, delete), validate_only=request.validate_only)

    async def _reserve(self, name: str, cell: str, *, validate_only: bool) -> int:
        """Keep that `name` is this cell's, so that no other cell can have a host of the same name; return at which revision, or 0."""
        found = await self.region.plane.read(_cell_key(name))
        owner = found.value.decode() if found is not None else ""
        if owner not in ("", cell) and await self.table.get(name) is not None:
            raise AlreadyExists("ALREADY_EXISTS", f"{name} is a host of cell {owner}", fix="choose another name", name=name)
        if validate_only or owner == cell:
            return 0
        txn = self.region.plane.txn()
        txn.require_revision(_cell_key(name), found.mod_revision if found is not None else 0)
        txn.put(_cell_key(name), cell.encode())
        return await txn.commit()

    async def _release(self, name: str, revision: int) -> None:
        """Give back what _reserve() kept at `revision`, unless somebody else has it by now."""
        txn = self.region.plane.txn()
        txn.require_revision(_cell_key(name), revision)
        txn.delete_key(_cell_key(name))
        with contextlib.suppress(Conflict):
            await txn.commit()

    async def _copied(self, told: Host, *, validate_only: bool) -> Host:
        """Return the region's copy of what the cell answered, once it is there, so that the caller reads what it wrote."""
        copy: Host | None = None
        if not validate_only:
            try:
                async with asyncio.timeout(_COPY_S):
                    copy = await self.table.get_by_uid(told.uid)
                    while copy is None or copy.generation < told.generation or told.HasField("delete_time") > copy.HasField("delete_time"):
                        if copy is None and told.HasField("delete_time"):
                            break
                        await self.table.mirror.moved()
                        copy = await self.table.get_by_uid(told.uid)
            except TimeoutError:
                copy = None
        if copy is None:
            told.ClearField("etag")
            return told
        return self.shown(copy)


def _cell_key(name: str) -> str:
    return f"host-cell/{name}"
