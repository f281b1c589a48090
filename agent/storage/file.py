"""The storage driver for a directory of this host: volumes and images are raw files, for clouds and labs without Ceph."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from agent.storage.driver import DeadClient, FileDisk, Usage, WantedVolume
from agent.storage.owners import facts_of, mark_from, owner_from, require_dead
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference, VolumeFacts
from kumo.errors import FailedPrecondition, Unavailable
from kumo.pool_verbs import ALL_VERBS, Verb
from storage.directory import images, volumes
from storage.directory.failures import translated
from storage.directory.locks import client_of
from storage.directory.place import Place, attempt_at, free, open_place
from storage.image import Cancelled, Image, Import
from storage.mark import Mark
from storage.volume import Volume

T = TypeVar("T")

_ANSWER_S = 20.0
# Less than what the cell waits: a large clone is copied for longer, and whoever asks again joins.
_COPY_S = 45.0
_RESERVE_BYTES = 256 << 20


@dataclass
class _Clone:
    """The making of a volume, on its thread."""

    stop: threading.Event = field(default_factory=threading.Event)
    future: "asyncio.Future[Volume] | None" = None


class FileDriver:
    """Made once a process. `directory` holds a folder for each pool; what is left of its disk below `reserve_bytes` takes nothing new."""

    # Other hosts do not see the directory.
    verbs = ALL_VERBS - {Verb.SHARE}

    def __init__(self, directory: Path, reserve_bytes: int = _RESERVE_BYTES) -> None:
        self._directory, self._reserve_bytes = directory, reserve_bytes
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="files")
        # A disk that is slow to copy must not keep others from asking.
        self._copiers = ThreadPoolExecutor(2, thread_name_prefix="copies")
        self._clones: dict[str, _Clone] = {}
        self._attempts: set[str] = set()
        self._stops: set[threading.Event] = set()

    async def close(self) -> None:
        for stop in [*self._stops, *(clone.stop for clone in self._clones.values())]:
            stop.set()
        self._threads.shutdown(wait=False)
        self._copiers.shutdown(wait=False)

    async def ensure_volume(self, pool: PoolReference, volume: WantedVolume) -> VolumeFacts:
        clone = self._clones.get(volume.uid) or self._begin(pool, volume)
        assert clone.future is not None
        try:
            async with asyncio.timeout(_COPY_S):
                made = await asyncio.shield(clone.future)
        except TimeoutError as error:
            raise Unavailable(
                "VOLUME_COPYING", f"volume {volume.uid} is still being copied from its image", fix="wait: it goes on", uid=volume.uid
            ) from error
        except Cancelled as error:
            raise Unavailable("VOLUME_STOPPED", f"making volume {volume.uid} was stopped", uid=volume.uid) from error
        mark = await self._run(f"reading the owner of volume {volume.uid}", pool, lambda place: volumes.read_mark(place, volume.uid))
        return facts_of(made, mark)

    def _begin(self, pool: PoolReference, volume: WantedVolume) -> _Clone:
        clone, attempt = _Clone(), attempt_at(volume.uid)
        wanted = volumes.Wanted(volume.uid, volume.size_bytes, volume.generation, volume.image_uid, attempt, clone.stop)

        def work() -> Volume:
            with translated(f"making volume {volume.uid}"):
                return volumes.ensure_volume(self._place(pool), wanted)

        def ended(future: "asyncio.Future[Volume]") -> None:
            del self._clones[volume.uid]
            self._attempts.discard(attempt)
            if not future.cancelled():
                future.exception()  # whoever still waits is told; if nobody does, it is told when it is asked for again

        self._attempts.add(attempt)
        self._clones[volume.uid] = clone
        clone.future = asyncio.get_running_loop().run_in_executor(self._copiers, work)
        clone.future.add_done_callback(ended)
        return clone

    async def delete_volume(self, pool: PoolReference, uid: str) -> None:
        if (clone := self._clones.get(uid)) is not None and clone.future is not None:
            # It must not appear after it was said to be gone.
            clone.stop.set()
            async with asyncio.timeout(_ANSWER_S):
                await asyncio.wait([clone.future])
        await self._run(f"deleting volume {uid}", pool, lambda place: volumes.delete_volume(place, uid))

    async def list_volumes(self, pool: PoolReference) -> list[VolumeFacts]:
        def work(place: Place) -> list[VolumeFacts]:
            return [facts_of(volume, volumes.read_mark(place, volume.uid)) for volume in volumes.list_volumes(place)]

        return await self._run("listing volumes", pool, work)

    async def set_owner(self, pool: PoolReference, uid: str, expected: Owner, owner: Owner) -> Owner:
        def work(place: Place) -> Mark:
            return volumes.change_mark(place, uid, mark_from(expected), mark_from(owner))

        return owner_from(await self._run(f"changing the owner of volume {uid}", pool, work))

    async def owner_of(self, pool: PoolReference, uid: str) -> Owner | None:
        mark = await self._run(f"reading the owner of volume {uid}", pool, lambda place: volumes.read_mark(place, uid))
        return owner_from(mark) if mark is not None and mark.names_somebody else None

    async def disk_source(self, pool: PoolReference, uid: str) -> FileDisk:
        return FileDisk(await self._run(f"looking for volume {uid}", pool, lambda place: volumes.volume_disk(place, uid)))

    async def client_addresses(self, pool: PoolReference, uid: str) -> list[str]:
        return await self.lock_owners(pool, uid)

    async def lock_owners(self, pool: PoolReference, uid: str) -> list[str]:
        client = await self._run(f"asking who has volume {uid} open", pool, lambda place: client_of(volumes.volume_disk(place, uid)))
        return [] if client is None else [client]

    async def break_dead_lock(self, pool: PoolReference, uid: str, client: DeadClient) -> None:
        """There is nothing to break: the kernel frees a lock with its process. That is what is looked at."""

        def work(place: Place) -> None:
            mark = volumes.read_mark(place, uid) or Mark()
            require_dead(client, mark, uid)
            if (holder := client_of(volumes.volume_disk(place, uid))) is not None:
                raise FailedPrecondition(
                    "LOCK_FOREIGN", f"volume {uid} is locked by {holder}, another process than the one that ended", uid=uid, owners=holder
                )

        await self._run(f"looking at the lock of volume {uid}", pool, work)

    async def find_image(self, pool: PoolReference, uid: str) -> Image | None:
        return await self._run(f"looking for image {uid}", pool, lambda place: images.find_image(place, uid))

    async def import_image(self, pool: PoolReference, image: Image, path: Path, progress: Callable[[int], None]) -> None:
        stop, attempt = threading.Event(), attempt_at(image.uid)
        job = Import(image, path, attempt, progress, stop)

        def work() -> None:
            with translated(f"importing image {image.uid}"):
                images.import_image(self._place(pool), job)

        self._attempts.add(attempt)
        self._stops.add(stop)
        future = asyncio.get_running_loop().run_in_executor(self._copiers, work)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            # Whoever cancels must find no image that appears afterwards.
            stop.set()
            await asyncio.wait([future])
            raise
        finally:
            self._attempts.discard(attempt)
            self._stops.discard(stop)

    async def delete_image(self, pool: PoolReference, uid: str) -> None:
        await self._run(f"deleting image {uid}", pool, lambda place: images.delete_image(place, uid))

    async def usage(self, pool: PoolReference) -> Usage:
        def work(place: Place) -> Usage:
            used_bytes = place.used_bytes()
            return Usage(used_bytes + place.room_bytes(), used_bytes)

        return await self._run("asking how full the directory is", pool, work)

    async def purge(self, pool: PoolReference) -> None:
        def work() -> None:
            with translated("freeing what was deleted"):
                free(self._place(pool), self._attempts.__contains__)

        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._copiers, work))

    def _place(self, pool: PoolReference) -> Place:
        return open_place(self._directory, pool.uid, self._reserve_bytes)

    async def _run(self, what: str, pool: PoolReference, work: Callable[[Place], T]) -> T:
        """Have a thread do something short. Raises Unavailable POOL_SILENT if the disk below does not answer."""

        def job() -> T:
            with translated(what):
                return work(self._place(pool))

        future = asyncio.get_running_loop().run_in_executor(self._threads, job)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise Unavailable(
                "POOL_SILENT", f"{what}: the disk below did not answer in {_ANSWER_S:.0f} s; whether it was done is unknown"
            ) from error
