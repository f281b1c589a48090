"""The storage driver for RBD: volumes and images in the pools of one Ceph cluster, with the key of this host."""

import asyncio
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from agent.storage.driver import DeadClient, RbdDisk, Usage, WantedVolume
from agent.storage.owners import facts_of, mark_from, owner_from, require_dead
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference, VolumeFacts
from kumo.pool_verbs import ALL_VERBS
from storage.block import images, locks, volumes
from storage.block.mark import change_mark, read_mark, remove_mark
from storage.block.names import importing_name, volume_name
from storage.conf import key_of, monitors_of
from storage.image import Image, Import
from storage.mark import Mark
from storage.pool import pool_usage
from storage.rados import Access, Cluster, Connection
from storage.volume import Volume

IMPORT_TIMEOUT_S = 4 * 3600.0
PURGE_TIMEOUT_S = 3600.0


class RbdDriver:
    """Made once a process. Connects when first asked, and again when the connection was lost."""

    verbs = ALL_VERBS

    def __init__(self, access: Access) -> None:
        self._cluster = Cluster(access)
        self._attempts: set[str] = set()

    async def close(self) -> None:
        await self._cluster.close()

    async def ensure_volume(self, pool: PoolReference, volume: WantedVolume) -> VolumeFacts:
        wanted = volumes.Wanted(volume.uid, volume.size_bytes, volume.generation, volume.image_uid)

        def work(connection: Connection) -> Volume:
            return volumes.ensure_volume(connection.pool(pool.volume_pool), connection.pool(pool.image_pool), wanted)

        made = await self._cluster.run(f"making volume {volume.uid}", work)
        async with self._cluster.shared() as connection:
            return facts_of(made, await read_mark(connection, pool.volume_pool, volume.uid))

    async def delete_volume(self, pool: PoolReference, uid: str) -> None:
        await self._cluster.run(f"deleting volume {uid}", lambda c: volumes.delete_volume(c.pool(pool.volume_pool), uid))
        async with self._cluster.shared() as connection:
            await remove_mark(connection, pool.volume_pool, uid)

    async def list_volumes(self, pool: PoolReference) -> list[VolumeFacts]:
        found = await self._cluster.run("listing volumes", lambda c: volumes.list_volumes(c.pool(pool.volume_pool)))
        async with self._cluster.shared() as connection:
            return [facts_of(volume, await read_mark(connection, pool.volume_pool, volume.uid)) for volume in found]

    async def set_owner(self, pool: PoolReference, uid: str, expected: Owner, owner: Owner) -> Owner:
        async with self._cluster.shared() as connection:
            return owner_from(await change_mark(connection, pool.volume_pool, uid, mark_from(expected), mark_from(owner)))

    async def owner_of(self, pool: PoolReference, uid: str) -> Owner | None:
        async with self._cluster.shared() as connection:
            mark = await read_mark(connection, pool.volume_pool, uid)
        return owner_from(mark) if mark is not None and mark.names_somebody else None

    async def disk_source(self, pool: PoolReference, uid: str) -> RbdDisk:
        async with self._cluster.shared() as connection:
            return RbdDisk(
                pool=pool.volume_pool,
                image=volume_name(uid),
                conf_file=self._cluster.access.conf_file,
                monitors=monitors_of(connection.setting("mon_host")),
                user=self._cluster.access.user.removeprefix("client."),
                key=key_of(Path(connection.setting("keyring")), self._cluster.access.user),
            )

    async def client_addresses(self, pool: PoolReference, uid: str) -> list[str]:
        return await self._cluster.run(f"asking who has volume {uid} open", lambda c: locks.clients_of(c.pool(pool.volume_pool), uid))

    async def lock_owners(self, pool: PoolReference, uid: str) -> list[str]:
        return await self._cluster.run(f"asking who locks volume {uid}", lambda c: locks.lock_owners(c.pool(pool.volume_pool), uid))

    async def break_dead_lock(self, pool: PoolReference, uid: str, client: DeadClient) -> None:
        async with self._cluster.shared() as connection:
            mark = await read_mark(connection, pool.volume_pool, uid) or Mark()
        require_dead(client, mark, uid)
        addresses = frozenset(client.addresses)
        await self._cluster.run(f"breaking the lock of volume {uid}", lambda c: locks.break_locks(c.pool(pool.volume_pool), uid, addresses))

    async def find_image(self, pool: PoolReference, uid: str) -> Image | None:
        return await self._cluster.run(f"looking for image {uid}", lambda c: images.find_image(c.pool(pool.image_pool), uid))

    async def import_image(self, pool: PoolReference, image: Image, path: Path, progress: Callable[[int], None]) -> None:
        stop = threading.Event()
        attempt = secrets.token_hex(4)
        job = Import(image, path, attempt, progress, stop)
        name = importing_name(image.uid, attempt)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def work(connection: Connection) -> None:
            try:
                images.import_image(connection.pool(pool.image_pool), job)
            finally:
                loop.call_soon_threadsafe(ended.set)

        self._attempts.add(name)
        try:
            await self._cluster.run_alone(f"importing image {image.uid}", work, IMPORT_TIMEOUT_S)
        except asyncio.CancelledError:
            # Whoever cancels must find no image that appears afterwards. Each operation has a limit, so this has an end.
            stop.set()
            await ended.wait()
            raise
        finally:
            self._attempts.discard(name)

    async def delete_image(self, pool: PoolReference, uid: str) -> None:
        await self._cluster.run(f"deleting image {uid}", lambda c: images.delete_image(c.pool(pool.image_pool), uid))

    async def usage(self, pool: PoolReference) -> Usage:
        capacity_bytes, used_bytes = await self._cluster.run(
            "asking how full the pool is", lambda c: pool_usage(c, [pool.volume_pool, pool.image_pool])
        )
        return Usage(capacity_bytes, used_bytes)

    async def purge(self, pool: PoolReference) -> None:
        under_way = frozenset(self._attempts)

        def is_needed(connection: Connection) -> bool:
            volume_io, image_io = connection.pool(pool.volume_pool), connection.pool(pool.image_pool)
            return volumes.has_trash(volume_io) or volumes.has_trash(image_io) or images.has_leftovers(image_io, under_way)

        # Freeing may take long and so has a connection of its own, which an idle host should not make each minute.
        if not await self._cluster.run("looking into the trash", is_needed):
            return

        def work(connection: Connection) -> None:
            images.remove_leftovers(connection.pool(pool.image_pool), under_way)
            # Volumes first: the last clone of an image is one.
            volumes.purge_trash(connection.pool(pool.volume_pool))
            volumes.purge_trash(connection.pool(pool.image_pool))

        await self._cluster.run_alone("purging the trash", work, PURGE_TIMEOUT_S)
