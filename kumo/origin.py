"""Remembers for a while which request asked for a thing, so that what reconcilers log and call for it carries that request's id.

It is a note for whoever reads logs: nothing decides by it, it is not stored, and a process that restarts has forgotten it.
"""

import time
from collections import OrderedDict
from contextvars import ContextVar

_MOST = 4096
_KEPT_S = 300.0
_ASKED: OrderedDict[str, tuple[str, float]] = OrderedDict()

# The id of the request on whose behalf a reconciler works now; empty when nobody asked lately.
ORIGIN: ContextVar[str] = ContextVar("kumo_origin", default="")


def remember(uid: str, request_id: str) -> None:
    """Note that `request_id` asked last for something about `uid`."""
    if uid and request_id:
        _ASKED[uid] = (request_id, time.monotonic())
        _ASKED.move_to_end(uid)
        if len(_ASKED) > _MOST:
            _ASKED.popitem(last=False)


def origin_of(key: str) -> str:
    """Return the request that asked lately for what a loop's key names (a uid, or kind/uid); empty if none did."""
    request_id, asked_at = _ASKED.get(key.rsplit("/", 1)[-1], ("", 0.0))
    return request_id if time.monotonic() - asked_at < _KEPT_S else ""
