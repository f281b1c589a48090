"""Makes the uids that identify things for ever, where names may be used again."""

import re

import uuid_utils

_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_uid() -> str:
    """Return a UUIDv7: ordered by the time it was made, never the same twice."""
    return str(uuid_utils.uuid7())


def is_uid(text: str) -> bool:
    return _UID.fullmatch(text) is not None
