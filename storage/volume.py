"""What a volume is in a pool, whatever keeps it, and what is said of one that cannot be made."""

from dataclasses import dataclass

from kumo.errors import FailedPrecondition, NotFound


@dataclass(frozen=True)
class Volume:
    """A volume as it is. `generation` is 0 while it is half made."""

    uid: str
    size_bytes: int
    generation: int


def no_image(uid: str) -> NotFound:
    return NotFound("IMAGE_NOT_FOUND", f"image {uid} is not in this pool", image_uid=uid)


def too_small(uid: str, size_bytes: int, image_uid: str, image_size_bytes: int) -> FailedPrecondition:
    return FailedPrecondition(
        "VOLUME_TOO_SMALL",
        f"volume {uid} of {size_bytes} bytes cannot hold image {image_uid} of {image_size_bytes} bytes",
        fix=f"ask for at least {image_size_bytes} bytes",
        size_bytes=size_bytes,
        image_size_bytes=image_size_bytes,
    )
