"""What things of Kumo are called in RBD and RADOS. A name is made of the uid alone, so a thing made twice is made once."""

SNAPSHOT = "kumo"
_VOLUME = "kumo-"
_IMPORTING = ".importing."


def volume_name(uid: str) -> str:
    return f"{_VOLUME}{uid}"


def volume_uid(name: str) -> str | None:
    """Return the uid of the volume that RBD calls `name`, None if it is none of Kumo's."""
    return name.removeprefix(_VOLUME) if name.startswith(_VOLUME) else None


def mark_object(uid: str) -> str:
    return f"kumo.owner.{uid}"


def header_object(uid: str) -> str:
    """The object by which RBD finds a volume; it is there exactly while the volume has its name."""
    return f"rbd_id.{volume_name(uid)}"


def importing_name(uid: str, attempt: str) -> str:
    """The name of an image while it is written. Each attempt has its own: a dead one's may be held by its ghost for half a minute."""
    return f"{uid}{_IMPORTING}{attempt}"


def importing_uid(name: str) -> str | None:
    uid, found, _ = name.partition(_IMPORTING)
    return uid if found else None
