"""Ends what a client that died left of a rename in RBD. Decides nothing about images.

RBD renames in steps: an object of the new name, the directory, the old name's object away. A client that dies after the first leaves
an image that opens by its new name and that neither a list nor a clone finds; one that dies before the last leaves that small object,
which does no harm. Everything here blocks.
"""

import struct
from contextlib import suppress
from typing import Any

import rados

_DIRECTORY = "rbd_directory"


def is_listed(images: Any, name: str) -> bool:
    """Return whether the pool's directory knows an image of that name: then its last rename came to its end."""
    return f"name_{name}" in _entries(images, f"name_{name}")


def finish_rename(images: Any, name: str) -> None:
    """Have an image that was half renamed to `name` be called so; fine if there is none. Two who do this at once do no harm."""
    try:
        identity = _text(images.read(_object(name)))
    except rados.ObjectNotFound:
        return
    entries = _entries(images, f"name_{name}", f"id_{identity}")
    if f"name_{name}" in entries:
        return
    if f"id_{identity}" not in entries:
        _remove(images, _object(name))  # the image went to the trash by its old name
        return
    old = _text(entries[f"id_{identity}"])
    images.execute(_DIRECTORY, "rbd", "dir_rename_image", b"".join(map(_packed, (old, name, identity))))
    _remove(images, _object(old))


def _object(name: str) -> str:
    """By this object RBD finds the identity of the image of that name."""
    return f"rbd_id.{name}"


def _entries(images: Any, *keys: str) -> dict[str, bytes]:
    with rados.ReadOpCtx() as operation:
        found, _ = images.get_omap_vals_by_keys(operation, keys)
        try:
            images.operate_read_op(operation, _DIRECTORY)
        except rados.ObjectNotFound:
            return {}  # no image was ever made
        return dict(found)


def _remove(images: Any, name: str) -> None:
    with suppress(rados.ObjectNotFound):
        images.remove_object(name)


def _text(data: bytes) -> str:
    return data[4:].decode()


def _packed(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()
