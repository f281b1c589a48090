"""Images in a directory: raw files that volumes are copied from. What has an image's name is whole. Everything here blocks."""

import shutil
from pathlib import Path

from storage.directory.copying import Copy, copy
from storage.directory.place import DISK, Place, begin, facts_of, publish, set_aside
from storage.image import Image, Import


def image_disk(place: Place, uid: str) -> Path:
    return place.images / uid / DISK


def find_image(place: Place, uid: str) -> Image | None:
    facts = facts_of(place.images / uid)
    if facts is None:
        return None
    return Image(uid, str(facts["sha256"]), int(facts["file_bytes"]), int(facts["size_bytes"]))


def import_image(place: Place, job: Import) -> None:
    """Write the file's bytes as an image, or find it written. Raises Cancelled, ResourceExhausted POOL_FULL."""
    image = job.image
    if find_image(place, image.uid) is not None:
        return
    folder = begin(place, job.attempt)
    try:
        copy(place, Copy(job.path, folder / DISK, image.size_bytes, job.progress, job.stop))
        facts = {"sha256": image.sha256, "file_bytes": image.file_bytes, "size_bytes": image.size_bytes}
        made = publish(folder, place.images / image.uid, facts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not made:
        shutil.rmtree(folder)


def delete_image(place: Place, uid: str) -> None:
    """Take an image away, or find it gone; its clones are copies."""
    set_aside(place, place.images / uid)
