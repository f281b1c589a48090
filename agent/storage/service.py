"""Answers kumo.api.agent.v1.Storage: refuses what is behind, lets one command about a thing run at a time, and has drivers do it."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from agent.stamps import Terms
from agent.storage.driver import StorageDriver, WantedVolume
from agent.storage.imports import Declared, ImageImports
from agent.storage.staging import Staging
from kumo.api.agent.v1.storage_pb2 import (
    DeleteImageRequest,
    DeleteImageResponse,
    DeleteVolumeRequest,
    DeleteVolumeResponse,
    DescribeImageRequest,
    DescribeImageResponse,
    DescribePoolRequest,
    DescribePoolResponse,
    EnsureVolumeRequest,
    EnsureVolumeResponse,
    ImportImageRequest,
    ImportImageResponse,
    ListVolumesRequest,
    ListVolumesResponse,
    PoolReference,
    SetOwnerRequest,
    SetOwnerResponse,
    UploadImageRequest,
    UploadImageResponse,
)
from kumo.api.agent.v1.storage_pb2_grpc import StorageServicer
from kumo.api.type.v1.stamp_pb2 import Stamp
from kumo.errors import Error, FailedPrecondition, InvalidArgument, Unavailable
from kumo.locks import KeyedLocks
from kumo.log import get_logger
from kumo.pool_verbs import WHAT, Verb
from kumo.rpc.identity import Context
from kumo.stamps import refusal, term_order

log = get_logger(__name__)

# A late duplicate is as old as a deadline at most: those of the last things are enough, and an agent that started anew has none.
_REMEMBERED = 4096
_SILENCE_S = 60.0
_SWEEP_S = 60.0


class Storage(StorageServicer):
    """Storage on behalf of the cell's leader. run() sweeps, and owns what goes on after an answer."""

    def __init__(self, terms: Terms, drivers: Mapping[str, StorageDriver], staging: Staging, imports: ImageImports) -> None:
        self._terms, self._drivers, self._staging, self._imports = terms, drivers, staging, imports
        self._stamps: OrderedDict[str, Stamp] = OrderedDict()
        self._locks = KeyedLocks()
        self._pools: dict[str, PoolReference] = {}
        self._deleted = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._imports.run())
            tasks.create_task(self._sweep())

    async def EnsureVolume(self, request: EnsureVolumeRequest, context: Context) -> EnsureVolumeResponse:
        driver = self._driver(request.pool, Verb.CLONE if request.image_uid else Verb.CREATE)
        async with self._obeying(request.uid, request.stamp):
            wanted = WantedVolume(request.uid, request.size_bytes, request.stamp.generation, request.image_uid)
            return EnsureVolumeResponse(facts=await driver.ensure_volume(request.pool, wanted))

    async def DeleteVolume(self, request: DeleteVolumeRequest, context: Context) -> DeleteVolumeResponse:
        driver = self._driver(request.pool)
        async with self._obeying(request.uid, request.stamp):
            await driver.delete_volume(request.pool, request.uid)
            self._deleted.set()
            return DeleteVolumeResponse()

    async def ListVolumes(self, request: ListVolumesRequest, context: Context) -> ListVolumesResponse:
        return ListVolumesResponse(volumes=await self._driver(request.pool).list_volumes(request.pool))

    async def SetOwner(self, request: SetOwnerRequest, context: Context) -> SetOwnerResponse:
        driver = self._driver(request.pool)
        async with self._obeying(request.uid, request.stamp):
            return SetOwnerResponse(owner=await driver.set_owner(request.pool, request.uid, request.expected, request.owner))

    async def UploadImage(
        self, request_iterator: AsyncIterator[UploadImageRequest], context: Context
    ) -> AsyncIterator[UploadImageResponse]:
        first = await self._next(request_iterator)
        if first is None or not first.HasField("head"):
            raise InvalidArgument("UPLOAD_HEAD_MISSING", "the first message of an upload says of what it is", field="head")
        head = first.head
        async with self._obeying(head.uid, head.stamp):
            pass  # others may ask how far it is, meanwhile
        async with self._staging.upload(head.uid, head.size_bytes) as upload:
            yield UploadImageResponse(received_bytes=upload.received_bytes)
            request: UploadImageRequest | None = first
            while request is not None:
                if request.data and await upload.add(request.offset, request.data):
                    yield UploadImageResponse(received_bytes=upload.received_bytes)
                request = await self._next(request_iterator)
            await upload.end()
            yield UploadImageResponse(received_bytes=upload.received_bytes)

    async def DescribeImage(self, request: DescribeImageRequest, context: Context) -> DescribeImageResponse:
        return DescribeImageResponse(facts=await self._imports.describe(request.pool, self._driver(request.pool), request.uid))

    async def ImportImage(self, request: ImportImageRequest, context: Context) -> ImportImageResponse:
        driver = self._driver(request.pool, Verb.IMPORT)
        declared = Declared(request.uid, request.format, request.size_bytes, request.sha256)
        async with self._obeying(request.uid, request.stamp):
            return ImportImageResponse(facts=await self._imports.start(request.pool, driver, declared))

    async def DeleteImage(self, request: DeleteImageRequest, context: Context) -> DeleteImageResponse:
        driver = self._driver(request.pool)
        async with self._obeying(request.uid, request.stamp):
            await self._imports.forget(request.uid)
            await driver.delete_image(request.pool, request.uid)
            self._deleted.set()
            return DeleteImageResponse()

    async def DescribePool(self, request: DescribePoolRequest, context: Context) -> DescribePoolResponse:
        driver = self._driver(request.pool)
        usage = await driver.usage(request.pool)
        return DescribePoolResponse(capacity_bytes=usage.capacity_bytes, used_bytes=usage.used_bytes, verbs=sorted(driver.verbs))

    def _driver(self, pool: PoolReference, verb: Verb | None = None) -> StorageDriver:
        """Raises FailedPrecondition DRIVER_MISSING, and VERB_MISSING for what the driver cannot do."""
        driver = self._drivers.get(pool.driver)
        if driver is None:
            raise FailedPrecondition(
                "DRIVER_MISSING",
                f"pool {pool.uid} needs the storage driver {pool.driver!r}; this host has {', '.join(self._drivers) or 'none'}",
                fix="give the command to a host that reaches the pool",
                driver=pool.driver,
            )
        if verb is not None and verb not in driver.verbs:
            raise FailedPrecondition(
                "VERB_MISSING",
                f"the storage driver {pool.driver} cannot {WHAT[verb]} ({verb})",
                fix="use a pool of another driver",
                driver=pool.driver,
                verb=verb,
            )
        self._pools[pool.uid] = pool
        return driver

    @asynccontextmanager
    async def _obeying(self, uid: str, stamp: Stamp) -> AsyncIterator[None]:
        """Have a thing to oneself under a command that is not behind. Raises FailedPrecondition STALE_COMMAND."""
        async with self._locks.alone(uid):
            await self._terms.obey(stamp.term)
            held = self._stamps.get(uid)
            if held is not None and _is_late(stamp, held):
                raise refusal("host", "sequence", stamp, held, self._terms.largest)
            self._stamps[uid] = stamp
            self._stamps.move_to_end(uid)
            if len(self._stamps) > _REMEMBERED:
                self._stamps.popitem(last=False)
            yield

    async def _next(self, requests: AsyncIterator[UploadImageRequest]) -> UploadImageRequest | None:
        """Return the next message, None at the end. Raises Unavailable UPLOAD_SILENT if none comes: a frozen client holds nothing up."""
        try:
            async with asyncio.timeout(_SILENCE_S):
                return await anext(requests, None)
        except TimeoutError as error:
            message = f"no byte came for {_SILENCE_S:.0f} s"
            raise Unavailable("UPLOAD_SILENT", message, fix="upload again; it goes on where it ended") from error

    async def _sweep(self) -> None:
        """Free what was deleted, soon after it was and once in a while, and remove abandoned uploads."""
        while True:
            try:
                async with asyncio.timeout(_SWEEP_S):
                    await self._deleted.wait()
            except TimeoutError:
                pass
            self._deleted.clear()
            await self.sweep_once()

    async def sweep_once(self) -> None:
        sweeps: list[tuple[str, Callable[[], Awaitable[None]]]] = [("staging", self._staging.remove_abandoned)]
        for pool in self._pools.values():
            sweeps.append((f"pool {pool.uid}", partial(self._drivers[pool.driver].purge, pool)))
        for what, sweep in sweeps:
            try:
                await sweep()
            except Error as error:
                log.warning("sweep failed", what=what, reason=error.reason, why=error.message)


def _is_late(stamp: Stamp, held: Stamp) -> bool:
    return term_order(stamp.term) == term_order(held.term) and stamp.sequence < held.sequence
