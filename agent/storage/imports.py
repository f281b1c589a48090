"""Takes staged images to where volumes can be cloned from them: checked against what was declared, converted, written. A job each,
started by whoever asks and joined by who asks again; it is never taken up again without being asked.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prometheus_client import Counter

from agent.storage.driver import StorageDriver
from agent.storage.inspect import Refused
from agent.storage.staging import Staging
from kumo.api.agent.v1.storage_pb2 import ImageFacts, PoolReference
from kumo.errors import Error, FailedPrecondition, ResourceExhausted, Unavailable
from kumo.log import get_logger
from storage.image import Image

log = get_logger(__name__)

IMPORTS = Counter("kumo_image_imports_total", "Imports of images that ended, by how: imported, refused, failed.", ["outcome"])

_MAX_JOBS = 32
_CHECKED_PERCENT = 5
_CONVERTED_PERCENT = 50


@dataclass(frozen=True)
class Declared:
    """What was declared of the file of an image. `sha256` empty: nothing."""

    uid: str
    file_format: str
    size_bytes: int
    sha256: str


@dataclass
class _Job:
    declared: Declared
    pool: PoolReference
    driver: StorageDriver
    task: asyncio.Task[None] | None = None
    percent: int = 0


class Checks(Protocol):
    """Looks at files that anybody may have made. Raises Refused, ResourceExhausted STAGING_FULL."""

    async def inspect(self, path: Path, file_format: str) -> int:
        """Return the size of the disk in the file, in bytes."""

    async def convert(self, path: Path, folder: Path, virtual_bytes: int, progress: Callable[[int], None]) -> Path:
        """Make a raw file in `folder` of one in qcow2, and return it. `progress` is told per cent."""


class ImageImports:
    """The imports under way on this host, some at once and the rest in line. run() owns them."""

    def __init__(self, staging: Staging, checks: Checks, at_once: int = 1) -> None:
        self._staging, self._checks = staging, checks
        self._turns = asyncio.Semaphore(at_once)
        self._jobs: dict[str, _Job] = {}
        self._failed: dict[str, Error] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None

    async def start(self, pool: PoolReference, driver: StorageDriver, declared: Declared) -> ImageFacts:
        """Start the import, or join the one under way, or find it done; return how far it is.

        Raises FailedPrecondition IMAGE_NOT_STAGED while bytes are missing.
        """
        facts = await self.describe(pool, driver, declared.uid)
        if facts.stage in (ImageFacts.IMPORTING, ImageFacts.REFUSED):
            return facts
        if facts.stage == ImageFacts.IMPORTED:
            await self._staging.remove(declared.uid)
            return facts
        kept = self._staging.find(declared.uid)
        if kept is None or not kept.sha256:
            here = 0 if kept is None else kept.received_bytes
            raise FailedPrecondition(
                "IMAGE_NOT_STAGED",
                f"{here} of {declared.size_bytes} bytes of image {declared.uid} are on this host",
                fix="upload the rest",
                uid=declared.uid,
                received_bytes=here,
            )
        if self._tasks is None:
            raise Unavailable("AGENT_STARTING", "imports are not running yet")
        if len(self._jobs) >= _MAX_JOBS:
            raise ResourceExhausted("IMPORTS_FULL", f"{len(self._jobs)} imports are under way or in line on this host")
        if declared.uid not in self._jobs:
            self._failed.pop(declared.uid, None)
            job = self._jobs[declared.uid] = _Job(declared, pool, driver)
            job.task = self._tasks.create_task(self._work(job))
        return await self.describe(pool, driver, declared.uid)

    async def describe(self, pool: PoolReference, driver: StorageDriver, uid: str) -> ImageFacts:
        """Return how far an image is. Why the last try at importing it failed stands beside what is staged."""
        if (job := self._jobs.get(uid)) is not None:
            facts = self._staged(uid, ImageFacts.IMPORTING)
            facts.progress_percent = job.percent
            return facts
        kept = self._staging.find(uid)
        if kept is not None and kept.reason:
            return ImageFacts(uid=uid, stage=ImageFacts.REFUSED, reason=kept.reason, message=kept.message)
        if (image := await driver.find_image(pool, uid)) is not None:
            return ImageFacts(
                uid=uid,
                stage=ImageFacts.IMPORTED,
                received_bytes=image.file_bytes,
                sha256=image.sha256,
                virtual_size_bytes=image.size_bytes,
                progress_percent=100,
            )
        if kept is None:
            return ImageFacts(uid=uid)
        facts = self._staged(uid, ImageFacts.STAGED)
        if (failed := self._failed.get(uid)) is not None:
            facts.reason, facts.message = failed.reason, failed.message
        return facts

    def _staged(self, uid: str, stage: ImageFacts.Stage.ValueType) -> ImageFacts:
        kept = self._staging.find(uid)
        if kept is None:
            return ImageFacts(uid=uid, stage=stage)
        return ImageFacts(uid=uid, stage=stage, received_bytes=kept.received_bytes, sha256=kept.sha256)

    async def forget(self, uid: str) -> None:
        """Stop the import of an image, and return when it has stopped and nothing of it is staged."""
        job = self._jobs.get(uid)
        if job is not None and job.task is not None:
            job.task.cancel()
            await asyncio.wait([job.task])
        self._failed.pop(uid, None)
        async with self._staging.using(uid):
            await self._staging.remove(uid)

    async def _work(self, job: _Job) -> None:
        uid = job.declared.uid
        try:
            async with self._turns, self._staging.using(uid):
                await self._import_or_refuse(job)
        except Error as error:
            self._failed[uid] = error
            IMPORTS.labels("failed").inc()
            log.warning("import failed", image=uid, reason=error.reason, why=error.message)
        except Exception as error:  # a bug in one import must not end the others
            self._failed[uid] = Unavailable("IMPORT_FAILED", "the import failed for a reason that is in the log of the agent")
            IMPORTS.labels("failed").inc()
            log.exception("import failed", error=error, image=uid)
        finally:
            del self._jobs[uid]

    async def _import_or_refuse(self, job: _Job) -> None:
        uid = job.declared.uid
        try:
            await self._import(job)
            IMPORTS.labels("imported").inc()
            log.info("image imported", image=uid)
        except Refused as refused:
            await self._staging.refuse(uid, refused)
            IMPORTS.labels("refused").inc()
            log.info("image refused", image=uid, reason=refused.reason, why=refused.message)

    async def _import(self, job: _Job) -> None:
        declared = job.declared
        kept = self._staging.find(declared.uid)
        if kept is None or not kept.sha256:
            raise FailedPrecondition("IMAGE_NOT_STAGED", f"image {declared.uid} is not staged any more")
        if kept.size_bytes != declared.size_bytes:
            raise Refused("SIZE_MISMATCH", f"the file has {kept.size_bytes} bytes and was declared with {declared.size_bytes}")
        if declared.sha256 and declared.sha256 != kept.sha256:
            raise Refused("SHA256_MISMATCH", f"the SHA-256 of the file is {kept.sha256}; {declared.sha256} was declared")
        disk = self._staging.file(declared.uid)
        virtual_bytes = await self._checks.inspect(disk, declared.file_format)
        job.percent = _CHECKED_PERCENT
        if declared.file_format == "qcow2":
            disk = await self._convert(job, disk, virtual_bytes)
        await self._write(job, disk, Image(declared.uid, kept.sha256, kept.size_bytes, virtual_bytes))
        await self._staging.remove(declared.uid)

    async def _convert(self, job: _Job, disk: Path, virtual_bytes: int) -> Path:
        def progress(percent: int) -> None:
            job.percent = _CHECKED_PERCENT + percent * (_CONVERTED_PERCENT - _CHECKED_PERCENT) // 100

        folder = await self._staging.output_folder(job.declared.uid)
        return await self._checks.convert(disk, folder, virtual_bytes, progress)

    async def _write(self, job: _Job, disk: Path, image: Image) -> None:
        begun = job.percent

        # From a thread: one number is all it changes.
        def progress(passed_bytes: int) -> None:
            job.percent = begun + passed_bytes * (99 - begun) // image.size_bytes

        await job.driver.import_image(job.pool, image, disk, progress)
