"""Makes one image usable once its bytes are there, and takes it away; writes its status. The bytes come by controller/cell/streams.py."""

from controller.cell.cell import Cell
from controller.cell.compute.server.desired import pool_reference
from controller.cell.conditions import Said, conditions
from controller.cell.ends import add_end
from controller.cell.events import WARNING, Happened
from controller.cell.image.image.plan import Finish, Import, Look, Remove, Step, Wait, World, plan
from controller.cell.presence import is_withdrawn
from controller.cell.session import Session
from kumo.api.agent.v1.storage_pb2 import DeleteImageRequest, DescribeImageRequest, ImageFacts, ImportImageRequest
from kumo.api.cell.v1.record_pb2 import Staging
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.errors import Error, FailedPrecondition
from kumo.log import get_logger

log = get_logger(__name__)

_COMMAND_S = 60.0
_IMPORT_LOOK_S = 0.25
_MOST_STEPS = 8
_FORMATS = {Image.RAW: "raw", Image.QCOW2: "qcow2"}


class ImageReconciler:
    """Called by the loop of images with a uid."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._removed: set[str] = set()

    async def reconcile(self, uid: str) -> float | None:
        facts: ImageFacts | None = None
        for _ in range(_MOST_STEPS):
            image = self._cell.records.images.get(uid)
            if image is None:
                self._removed.discard(uid)
                return None
            step = plan(self._world(image, facts))
            try:
                match step:
                    case Look():
                        facts = await self._look(image)
                    case Import():
                        facts = await self._import(image)
                    case Remove():
                        await self._remove(image)
                    case Finish():
                        await self._finish(image)
                    case Wait() | None:
                        await self._report(image, step, facts, None)
                        return _IMPORT_LOOK_S if isinstance(step, Wait) and step.why == "IMPORTING" else None
            except Error as error:
                await self._report(image, Wait("TROUBLE"), facts, error)
                raise
        raise RuntimeError(f"the plan of image {uid} does not come to rest")

    def _world(self, image: Image, facts: ImageFacts | None) -> World:
        return World(
            size_bytes=image.spec.size_bytes,
            is_leaving=image.HasField("delete_time") or is_withdrawn(self._cell, image.uid),
            is_pool_known=self._cell.records.pools.entry(image.spec.pool_uid) is not None,
            is_settled=image.status.state in (Image.ACTIVE, Image.FAILED),
            is_staged=self._cell.records.stagings.entry(image.uid) is not None,
            is_removed=image.uid in self._removed,
            facts=facts,
        )

    async def _look(self, image: Image) -> ImageFacts:
        request = DescribeImageRequest(uid=image.uid, pool=pool_reference(self._pool(image)))
        return (await self._stager(image).storage.DescribeImage(request, timeout=_COMMAND_S)).facts

    async def _import(self, image: Image) -> ImageFacts:
        session = self._stager(image)
        request = ImportImageRequest(
            stamp=session.stamp(None, image.generation),
            uid=image.uid,
            pool=pool_reference(self._pool(image)),
            format=_FORMATS[image.spec.format],
            size_bytes=image.spec.size_bytes,
            sha256=image.spec.sha256,
        )
        return (await session.storage.ImportImage(request, timeout=_COMMAND_S)).facts

    async def _remove(self, image: Image) -> None:
        session = self._stager(image)
        request = DeleteImageRequest(stamp=session.stamp(None, image.generation), uid=image.uid, pool=pool_reference(self._pool(image)))
        await session.storage.DeleteImage(request, timeout=_COMMAND_S)
        self._removed.add(image.uid)

    async def _finish(self, image: Image) -> None:
        change = self._cell.ledger.change()
        add_end(self._cell, change, self._cell.records.images, image.uid, withdrawn=not image.HasField("delete_time"))
        staging = self._cell.records.stagings.intent_revision(image.uid)
        if staging:
            change.delete(Staging, image.uid, replaces=staging)
        await self._cell.ledger.commit(change)
        log.info("image gone", image=image.name)

    def _stager(self, image: Image) -> Session:
        """Return the host that has its bytes; any, if none was asked yet or that one was taken out of the cell."""
        staging = self._cell.records.stagings.get(image.uid)
        if staging is not None and self._cell.records.hosts.entry(staging.host_uid) is not None:
            return self._cell.agents.session(staging.host_uid)
        return self._cell.agents.for_storage(image.uid, self._pool(image))

    def _pool(self, image: Image) -> Pool:
        pool = self._cell.records.pools.get(image.spec.pool_uid)
        if pool is None:
            raise FailedPrecondition("POOL_UNKNOWN", f"the pool of {image.name} is not known here", pool_uid=image.spec.pool_uid)
        return pool

    async def _report(self, image: Image, step: Step | None, facts: ImageFacts | None, trouble: Error | None) -> None:
        if step is None and facts is None:
            return  # it is settled, and what is to be said of it was said then
        before = image.status
        part = Image(uid=image.uid)
        after = part.status
        after.CopyFrom(before)
        after.ClearField("conditions")
        after.observed_generation = image.generation
        if facts is not None:
            after.received_bytes, after.sha256 = facts.received_bytes or before.received_bytes, facts.sha256 or before.sha256
            after.virtual_size_bytes = facts.virtual_size_bytes
        after.state = _state(image, self._world(image, facts), step, facts)
        now = self._cell.now()
        said = _said(step, facts, trouble, image.spec.size_bytes)
        after.conditions.extend(conditions(before.conditions, [said], image.generation, now))
        told = []
        if after.state != before.state and after.state in (Image.ACTIVE, Image.FAILED):
            is_refused = after.state == Image.FAILED
            told.append(Happened("REFUSED", said.message, WARNING, said.fix) if is_refused else Happened("IMPORTED", said.message))
        await self._cell.reporter.report(self._cell.records.images, part, told, now)


def _state(image: Image, world: World, step: Step | None, facts: ImageFacts | None) -> Image.State.ValueType:
    if world.is_leaving:
        return Image.DELETING
    if step is None and facts is not None:
        return Image.ACTIVE if facts.stage == ImageFacts.IMPORTED else Image.FAILED
    if isinstance(step, Wait) and step.why == "IMPORTING":
        return Image.IMPORTING
    if world.is_staged:
        return image.status.state if image.status.state == Image.IMPORTING else Image.UPLOADING
    return Image.PENDING


def _said(step: Step | None, facts: ImageFacts | None, trouble: Error | None, size_bytes: int) -> Said:
    if trouble is not None:
        return Said("Ready", False, trouble.reason, trouble.message, trouble.fix)
    if step is None and facts is not None:
        if facts.stage == ImageFacts.IMPORTED:
            return Said("Ready", True, "IMPORTED", "volumes can be cloned from it")
        return Said("Ready", False, facts.reason, facts.message, "delete it, and create it anew from another file")
    why = step.why if isinstance(step, Wait) else "NOT_YET"
    received = facts.received_bytes if facts is not None else 0
    match why:
        case "IMPORTING":
            percent = facts.progress_percent if facts is not None else 0
            return Said("Ready", False, why, f"it is being checked, converted and imported: {percent} % done")
        case "NO_BYTES" | "BYTES_MISSING":
            return Said("Ready", False, why, f"{received} of {size_bytes} bytes have arrived", "upload it")
        case "POOL_UNKNOWN":
            return Said("Ready", False, why, "its pool is not known in this cell yet")
        case _:
            return Said("Ready", False, why, "it is being worked on")
