"""The storage driver without storage: volumes and images are sparse files in a folder, so its state outlives the process.

Hosts of a lab that share the folder share the pool. Clones are copies. What a client of Ceph would hold open is told it by open_as().
"""

import asyncio
import json
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from agent.storage.checks import ImageLimits
from agent.storage.driver import DeadClient, FileDisk, Usage, WantedVolume
from agent.storage.inspect import inspect
from agent.storage.owners import facts_of, mark_from, owner_from, require_dead
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference, VolumeFacts
from kumo.errors import FailedPrecondition, NotFound
from kumo.pool_verbs import ALL_VERBS, Verb
from storage.image import Image
from storage.mark import Mark, mark_of, successor, text_of
from storage.sparse import next_data
from storage.volume import Volume, no_image, too_small

T = TypeVar("T")

_PIECE_BYTES = 1 << 20


class FakeChecks:
    """Looks at files of images in this process, since a jail needs root; a converted disk is empty, since no guest reads it."""

    async def inspect(self, path: Path, file_format: str) -> int:
        def look() -> int:
            with path.open("rb") as file:
                descriptor = file.fileno()
                return inspect(
                    file_format, lambda at, count: os.pread(descriptor, count, at), path.stat().st_size, ImageLimits().virtual_bytes
                )

        return await asyncio.to_thread(look)

    async def convert(self, path: Path, folder: Path, virtual_bytes: int, progress: Callable[[int], None]) -> Path:
        def make() -> Path:
            with (folder / "disk.raw").open("wb") as disk:
                disk.truncate(virtual_bytes)
            return folder / "disk.raw"

        return await asyncio.to_thread(make)


class FakeDriver:
    """One thread does all of it, so every method is atomic to the others; a crash leaves a thing made or not made.

    `verbs` are what it says that it can do.
    """

    def __init__(self, directory: Path, capacity_bytes: int = 1 << 40, verbs: frozenset[Verb] = ALL_VERBS) -> None:
        self.verbs = verbs
        self._directory = directory
        self._capacity_bytes = capacity_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fake-storage")

    async def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def ensure_volume(self, pool: PoolReference, volume: WantedVolume) -> VolumeFacts:
        return await self._run(lambda: self._ensure_volume(pool, volume))

    def _ensure_volume(self, pool: PoolReference, volume: WantedVolume) -> VolumeFacts:
        disk = self._volume(pool, volume.uid)
        if not disk.exists():
            fresh = self._folder(pool, "fresh") / disk.name
            if volume.image_uid:
                image = self._image(pool, volume.image_uid)
                if not image.exists():
                    raise no_image(volume.image_uid)
                if (size_bytes := image.stat().st_size) > volume.size_bytes:
                    raise too_small(volume.uid, volume.size_bytes, volume.image_uid, size_bytes)
                copy_sparse(image, fresh, lambda _: None)
            else:
                fresh.write_bytes(b"")
            os.truncate(fresh, volume.size_bytes)
            _write_json(disk.with_suffix(".json"), {"generation": max(1, volume.generation), "image_uid": volume.image_uid})
            fresh.rename(disk)
        return self._facts(pool, volume.uid)

    async def delete_volume(self, pool: PoolReference, uid: str) -> None:
        await self._run(lambda: self._delete_volume(pool, uid))

    def _delete_volume(self, pool: PoolReference, uid: str) -> None:
        if clients := self._clients(pool, uid):
            raise FailedPrecondition("VOLUME_IN_USE", f"volume {uid} is open by {', '.join(clients)}", uid=uid, clients=",".join(clients))
        disk = self._volume(pool, uid)
        for path in (disk, disk.with_suffix(".json"), disk.with_suffix(".owner")):
            path.unlink(missing_ok=True)

    async def list_volumes(self, pool: PoolReference) -> list[VolumeFacts]:
        return await self._run(lambda: [self._facts(pool, disk.stem) for disk in sorted(self._folder(pool, "volumes").glob("*.raw"))])

    async def set_owner(self, pool: PoolReference, uid: str, expected: Owner, owner: Owner) -> Owner:
        def work() -> Owner:
            disk = self._volume(pool, uid)
            if not disk.exists():
                raise NotFound("VOLUME_NOT_FOUND", f"there is no volume {uid}", uid=uid)
            after = successor(self._mark(disk) or Mark(), mark_from(expected), mark_from(owner))
            _write(disk.with_suffix(".owner"), text_of(after).encode())
            return owner_from(after)

        return await self._run(work)

    async def owner_of(self, pool: PoolReference, uid: str) -> Owner | None:
        mark = await self._run(lambda: self._mark(self._volume(pool, uid)))
        return owner_from(mark) if mark is not None and mark.names_somebody else None

    async def disk_source(self, pool: PoolReference, uid: str) -> FileDisk:
        return FileDisk(self._volume(pool, uid))

    async def client_addresses(self, pool: PoolReference, uid: str) -> list[str]:
        return await self._run(lambda: self._clients(pool, uid))

    async def lock_owners(self, pool: PoolReference, uid: str) -> list[str]:
        return await self._run(lambda: self._clients(pool, uid)[:1])

    async def break_dead_lock(self, pool: PoolReference, uid: str, client: DeadClient) -> None:
        def work() -> None:
            mark = self._mark(self._volume(pool, uid)) or Mark()
            require_dead(client, mark, uid)
            if foreign := [address for address in self._clients(pool, uid)[:1] if address not in client.addresses]:
                raise FailedPrecondition("LOCK_FOREIGN", f"volume {uid} is locked by {foreign[0]}", uid=uid)
            self._open_file(pool, uid).unlink(missing_ok=True)

        await self._run(work)

    async def open_as(self, pool: PoolReference, uid: str, address: str) -> None:
        """Take it that a client at `address` opened the volume; the first to do so holds its lock."""
        await self._run(lambda: _write_json(self._open_file(pool, uid), [*self._clients(pool, uid), address]))

    async def close_as(self, pool: PoolReference, uid: str, address: str) -> None:
        """Take it that the client closed it."""
        await self._run(lambda: _write_json(self._open_file(pool, uid), [one for one in self._clients(pool, uid) if one != address]))

    async def find_image(self, pool: PoolReference, uid: str) -> Image | None:
        return await self._run(lambda: self._find_image(pool, uid))

    def _find_image(self, pool: PoolReference, uid: str) -> Image | None:
        path = self._image(pool, uid)
        if not path.exists():
            return None
        said = json.loads(path.with_suffix(".json").read_text())
        return Image(uid, said["sha256"], said["file_bytes"], path.stat().st_size)

    async def import_image(self, pool: PoolReference, image: Image, path: Path, progress: Callable[[int], None]) -> None:
        def work() -> None:
            target = self._image(pool, image.uid)
            if target.exists():
                return
            fresh = target.with_suffix(f".{secrets.token_hex(4)}.importing")
            copy_sparse(path, fresh, progress)
            os.truncate(fresh, image.size_bytes)
            _write_json(target.with_suffix(".json"), {"sha256": image.sha256, "file_bytes": image.file_bytes})
            fresh.rename(target)

        await self._run(work)

    async def delete_image(self, pool: PoolReference, uid: str) -> None:
        def work() -> None:
            path = self._image(pool, uid)
            with suppress(FileNotFoundError):
                path.rename(path.with_suffix(".trash"))
            path.with_suffix(".json").unlink(missing_ok=True)

        await self._run(work)

    async def usage(self, pool: PoolReference) -> Usage:
        def work() -> Usage:
            files = (path for kind in ("volumes", "images") for path in self._folder(pool, kind).iterdir())
            return Usage(self._capacity_bytes, sum(path.stat().st_blocks * 512 for path in files))

        return await self._run(work)

    async def purge(self, pool: PoolReference) -> None:
        """Looks at all volumes only if an image was deleted: a thousand hosts that share a pool do this again and again."""

        def work() -> None:
            images = self._folder(pool, "images")
            for left in (*self._folder(pool, "fresh").iterdir(), *images.glob("*.importing")):
                left.unlink()
            if hidden := list(images.glob("*.trash")):
                parents = self._parents(pool)
                for image in hidden:
                    if image.stem not in parents:
                        image.unlink()

        await self._run(work)

    def _parents(self, pool: PoolReference) -> set[str]:
        """Return the images that volumes are clones of."""
        records = (path for path in self._folder(pool, "volumes").glob("*.json") if path.with_suffix(".raw").exists())
        return {str(json.loads(path.read_text())["image_uid"]) for path in records}

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _folder(self, pool: PoolReference, kind: str) -> Path:
        folder = self._directory / pool.uid / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _volume(self, pool: PoolReference, uid: str) -> Path:
        return self._folder(pool, "volumes") / f"{uid}.raw"

    def _image(self, pool: PoolReference, uid: str) -> Path:
        return self._folder(pool, "images") / f"{uid}.raw"

    def _open_file(self, pool: PoolReference, uid: str) -> Path:
        return self._folder(pool, "open") / f"{uid}.json"

    def _clients(self, pool: PoolReference, uid: str) -> list[str]:
        path = self._open_file(pool, uid)
        return [str(address) for address in json.loads(path.read_text())] if path.exists() else []

    def _mark(self, disk: Path) -> Mark | None:
        path = disk.with_suffix(".owner")
        return mark_of(path.read_text()) if path.exists() else None

    def _facts(self, pool: PoolReference, uid: str) -> VolumeFacts:
        disk = self._volume(pool, uid)
        generation = json.loads(disk.with_suffix(".json").read_text())["generation"]
        return facts_of(Volume(uid, disk.stat().st_size, generation), self._mark(disk))


def copy_sparse(source: Path, target: Path, progress: Callable[[int], None]) -> None:
    """Copy the data of a file and leave its holes holes. `progress` is told how far it is, in bytes."""
    with source.open("rb") as reading, target.open("wb") as writing:
        size_bytes = os.fstat(reading.fileno()).st_size
        offset = 0
        while (offset := next_data(reading.fileno(), offset)) < size_bytes:
            data = os.pread(reading.fileno(), min(_PIECE_BYTES, size_bytes - offset), offset)
            os.pwrite(writing.fileno(), data, offset)
            offset += len(data)
            progress(offset)
        writing.truncate(size_bytes)


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value).encode())


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.rename(path)
