"""Keeps the bytes of images that are on their way: what was acknowledged is on the disk, and what is abandoned goes. What the bytes
are is decided elsewhere; why an image was refused is kept here until it is deleted.
"""

import asyncio
import errno
import hashlib
import os
import shutil
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from agent.state import StateFiles
from agent.storage.inspect import Refused
from agent.storage.sandbox import IMAGE_USER
from kumo.api.agent.v1.state_pb2 import KeptImage
from kumo.clock import Clock, SystemClock
from kumo.errors import Aborted, FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from kumo.log import get_logger

log = get_logger(__name__)

_KIND = "images"
_WRITE_BYTES = 4 << 20
# Less than what a client sends ahead of acknowledgements (8 MiB), or both would wait.
_SYNC_BYTES = 4 << 20
_HASH_BYTES = 1 << 20
_ZEROS = bytes(_HASH_BYTES)


@dataclass(frozen=True)
class StagingLimits:
    """How much may be staged at once, what of the disk stays free, and after what time without a byte an upload is abandoned."""

    total_bytes: int = 256 << 30
    reserve_bytes: int = 1 << 30
    abandoned_after: timedelta = timedelta(hours=24)


class Staging:
    """The staged images of this host. load() comes before all else."""

    def __init__(
        self,
        directory: Path,
        files: StateFiles,
        limits: StagingLimits | None = None,
        clock: Clock | None = None,
        reader: int | None = IMAGE_USER,
    ) -> None:
        """`reader` is who looks at the files: the jail's user; None where nobody does but this process."""
        self._directory, self._files, self.reader = directory, files, reader
        self._limits = limits or StagingLimits()
        self._clock = clock or SystemClock()
        self._held: dict[str, KeptImage] = {}
        self._busy: set[str] = set()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="staging")

    @property
    def directory(self) -> Path:
        return self._directory

    def load(self) -> None:
        """Read what is kept, and remove what belongs to none of it. Blocks: for the start of the process."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._held = self._files.load(_KIND, KeptImage)
        for path in self._directory.iterdir():
            kept = self._held.get(path.name)
            if kept is None or kept.reason:
                shutil.rmtree(path)
            else:
                shutil.rmtree(path / "out", ignore_errors=True)

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    def find(self, uid: str) -> KeptImage | None:
        """Return what is staged of an image, or why it was refused; None if nothing is known of it. Not to be changed."""
        return self._held.get(uid)

    def file(self, uid: str) -> Path:
        return self._directory / uid / "file"

    async def output_folder(self, uid: str) -> Path:
        """Return an empty folder that the jail's user may write in."""
        folder = self._directory / uid / "out"

        def make() -> Path:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            if self.reader is not None:
                os.chown(folder, self.reader, self.reader)
            return folder

        return await to_thread(make)

    def room_bytes(self) -> int:
        """Return what may still be written to the disk."""
        stat = os.statvfs(self._directory)
        return max(0, stat.f_bavail * stat.f_frsize - self._limits.reserve_bytes)

    @asynccontextmanager
    async def using(self, uid: str) -> AsyncIterator[None]:
        """Have an image to oneself. Raises Aborted while another upload or an import has it."""
        if uid in self._busy:
            raise Aborted("IMAGE_BUSY", f"another upload or the import of image {uid} is under way", fix="wait, then go on", uid=uid)
        self._busy.add(uid)
        try:
            yield
        finally:
            self._busy.discard(uid)

    @asynccontextmanager
    async def upload(self, uid: str, size_bytes: int) -> AsyncIterator["Upload"]:
        """Take bytes of an image from where the last upload ended.

        Raises FailedPrecondition IMAGE_REFUSED, InvalidArgument UPLOAD_SIZE_CHANGED, ResourceExhausted STAGING_FULL.
        """
        async with self.using(uid):
            upload = Upload(self, uid, await self._begin(uid, size_bytes))
            try:
                await upload.on_thread(upload.open)
                yield upload
            finally:
                await asyncio.shield(upload.end())

    async def _begin(self, uid: str, size_bytes: int) -> KeptImage:
        kept = self._held.get(uid)
        if kept is not None and kept.reason:
            raise FailedPrecondition("IMAGE_REFUSED", f"image {uid} was refused, {kept.reason}: {kept.message}", uid=uid, why=kept.reason)
        if kept is not None and kept.size_bytes != size_bytes:
            raise InvalidArgument(
                "UPLOAD_SIZE_CHANGED",
                f"the upload of image {uid} began with {kept.size_bytes} bytes and goes on with {size_bytes}",
                field="head.size_bytes",
                uid=uid,
            )
        if kept is not None:
            return kept
        staged_bytes = sum(one.size_bytes for one in self._held.values() if not one.reason)
        room_bytes = min(self._limits.total_bytes - staged_bytes, self.room_bytes())
        if size_bytes > room_bytes:
            raise ResourceExhausted(
                "STAGING_FULL",
                f"an image of {size_bytes} bytes does not fit the {max(0, room_bytes)} bytes that may still be staged on this host",
                fix="wait for imports to end, or delete images that were not imported",
                size_bytes=size_bytes,
                room_bytes=max(0, room_bytes),
            )
        kept = KeptImage(size_bytes=size_bytes)
        await self.keep(uid, kept)
        return kept

    async def keep(self, uid: str, kept: KeptImage) -> None:
        kept.change_time.FromDatetime(self._clock.now())
        await self._files.save(_KIND, uid, kept)
        self._held[uid] = kept

    async def refuse(self, uid: str, refused: Refused) -> None:
        """Remove the bytes and remember why."""
        size_bytes = self._held[uid].size_bytes if uid in self._held else 0
        await self.keep(uid, KeptImage(size_bytes=size_bytes, reason=refused.reason, message=refused.message))
        await self._remove_bytes(uid)

    async def remove(self, uid: str) -> None:
        """Forget an image and its bytes."""
        await self._remove_bytes(uid)
        await self._files.remove(_KIND, uid)
        self._held.pop(uid, None)

    async def remove_abandoned(self) -> None:
        oldest = self._clock.now() - self._limits.abandoned_after
        for uid, kept in list(self._held.items()):
            if not kept.reason and uid not in self._busy and kept.change_time.ToDatetime(oldest.tzinfo) < oldest:
                log.info("abandoned upload removed", image=uid, received_bytes=kept.received_bytes, size_bytes=kept.size_bytes)
                async with self.using(uid):
                    await self.remove(uid)

    async def _remove_bytes(self, uid: str) -> None:
        await to_thread(shutil.rmtree, self._directory / uid, ignore_errors=True)

    def on_thread(self, work: Callable[[], None]) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)


class Upload:
    """One upload under way. Blocking methods run on the staging's threads, one at a time."""

    def __init__(self, staging: Staging, uid: str, kept: KeptImage) -> None:
        self._staging, self._uid, self._kept = staging, uid, kept
        self._descriptor = -1
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        # Bytes that were taken, of which `kept.received_bytes` are on the disk for certain.
        self._taken_bytes = kept.received_bytes
        self._work: asyncio.Future[None] | None = None

    @property
    def received_bytes(self) -> int:
        """The bytes that are on the disk for certain."""
        return self._kept.received_bytes

    def open(self) -> None:
        """Open the file at what is certain, and hash that again: a hash cannot be kept. Blocks."""
        path = self._staging.file(self._uid)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # Who looks at it reads it by its group.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        if self._staging.reader is not None:
            os.fchown(self._descriptor, -1, self._staging.reader)
        if os.fstat(self._descriptor).st_size < self._kept.received_bytes:
            # Somebody emptied the folder: begin again.
            self._kept = KeptImage(size_bytes=self._kept.size_bytes)
            self._taken_bytes = 0
        os.ftruncate(self._descriptor, self._taken_bytes)
        for offset in range(0, self._taken_bytes, _HASH_BYTES):
            self._digest.update(os.pread(self._descriptor, min(_HASH_BYTES, self._taken_bytes - offset), offset))

    async def add(self, offset: int, data: bytes) -> bool:
        """Take a piece; True when more than before is on the disk for certain.

        Raises FailedPrecondition UPLOAD_OFFSET with the offset that is expected, InvalidArgument UPLOAD_TOO_LONG.
        """
        expected = self._taken_bytes + len(self._buffer)
        if offset != expected:
            raise FailedPrecondition(
                "UPLOAD_OFFSET",
                f"the next byte of image {self._uid} is expected at {expected}, not at {offset}",
                field="offset",
                fix="go on where the first answer of a new upload says",
                expected_offset=expected,
                offset=offset,
            )
        if expected + len(data) > self._kept.size_bytes:
            raise InvalidArgument(
                "UPLOAD_TOO_LONG",
                f"image {self._uid} was declared with {self._kept.size_bytes} bytes; {expected + len(data)} came",
                field="data",
                size_bytes=self._kept.size_bytes,
            )
        self._buffer += data
        whole = expected + len(data) == self._kept.size_bytes
        if len(self._buffer) >= _WRITE_BYTES or whole:
            await self.on_thread(self._write)
        if whole or self._taken_bytes - self._kept.received_bytes >= _SYNC_BYTES:
            await self._sync()
            return True
        return False

    async def on_thread(self, work: Callable[[], None]) -> None:
        self._work = self._staging.on_thread(work)
        try:
            await asyncio.shield(self._work)
        except OSError as error:
            message = f"writing image {self._uid} to the staging folder: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceExhausted("STAGING_FULL", message, fix="free space on the host", uid=self._uid) from error
            raise Unavailable("STAGING_FAILED", message, fix="look at the host's disk", uid=self._uid) from error

    async def end(self) -> None:
        """Make certain what has come so far, and close."""
        if self._work is not None:
            # A thread cannot be cancelled: it may still write for who was.
            await asyncio.wait([self._work])
        if self._descriptor < 0:
            return
        try:
            if self._buffer:
                await self.on_thread(self._write)
            if self._taken_bytes > self._kept.received_bytes:
                await self._sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self) -> None:
        data = bytes(self._buffer)
        self._buffer.clear()
        offset = self._taken_bytes
        for start in range(0, len(data), _HASH_BYTES):
            piece = data[start : start + _HASH_BYTES]
            # A hole instead of zeros: a raw image is mostly that.
            if piece != _ZEROS[: len(piece)]:
                _write_all(self._descriptor, piece, offset + start)
        os.ftruncate(self._descriptor, offset + len(data))
        self._digest.update(data)
        self._taken_bytes = offset + len(data)

    async def _sync(self) -> None:
        await self.on_thread(lambda: os.fsync(self._descriptor))
        whole = self._taken_bytes == self._kept.size_bytes
        kept = KeptImage(size_bytes=self._kept.size_bytes, received_bytes=self._taken_bytes)
        if whole:
            kept.sha256 = self._digest.hexdigest()
        await self._staging.keep(self._uid, kept)
        self._kept = kept


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
