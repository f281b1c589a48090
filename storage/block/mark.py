"""The mark that says whose disk a volume is, in RADOS: a small object beside it in its pool, changed by one operation that compares what it
replaces and never lowers the epoch. An absent mark is nobody's; one that cannot be read is not taken for absent.
"""

import errno
from collections.abc import Awaitable
from typing import Any

import rados

from kumo.errors import Error, NotFound, Unavailable
from storage.block.names import header_object, mark_object
from storage.failures import OperationFailed
from storage.mark import Mark, mark_of, successor, text_of
from storage.rados import Connection, ended

_KEY = "owner"
_TIMEOUT_S = 20.0
_TRIES = 8


async def read_mark(connection: Connection, pool: str, uid: str) -> Mark | None:
    """Return the mark of a volume, None if it has none. Raises Unavailable if it cannot be read."""
    text = await _read(connection, connection.pool(pool), uid)
    return None if text is None else mark_of(text)


async def change_mark(connection: Connection, pool: str, uid: str, expected: Mark, wanted: Mark) -> Mark:
    """Make the mark say `wanted` if it says `expected`, and return what it says then. Saying so already is success.

    Raises FailedPrecondition OWNER_CHANGED, and NotFound if there is no such volume.
    """
    io = connection.pool(pool)
    if not await _exists(connection, io, header_object(uid)):
        raise NotFound("VOLUME_NOT_FOUND", f"pool {pool} has no volume {uid}", uid=uid, pool=pool)
    for _ in range(_TRIES):
        text = await _read(connection, io, uid)
        held = Mark() if text is None else mark_of(text)
        after = successor(held, expected, wanted)
        if after == held or await _replace(connection, io, uid, text, text_of(after)):
            return after
    raise Unavailable("OWNER_CONTENDED", f"the owner mark of volume {uid} changed {_TRIES} times in a row", uid=uid)


async def remove_mark(connection: Connection, pool: str, uid: str) -> None:
    """Return when the volume has no mark."""
    future, callback = connection.completions.expect()
    connection.pool(pool).aio_remove(mark_object(uid), callback)
    await _found(f"removing the owner mark of volume {uid}", future)


async def _found(what: str, future: Awaitable[Any]) -> bool:
    """Wait for the end of an operation; False if its object is not there."""
    try:
        await ended(what, future, _TIMEOUT_S)
    except Error as error:
        if _number(error) == errno.ENOENT:
            return False
        raise
    return True


def _number(error: Error) -> int:
    return error.__cause__.errno if isinstance(error.__cause__, OperationFailed) else 0


async def _exists(connection: Connection, io: Any, name: str) -> bool:
    future, callback = connection.completions.expect()
    io.aio_stat(name, callback)
    return await _found(f"looking for {name}", future)


async def _read(connection: Connection, io: Any, uid: str) -> str | None:
    future, callback = connection.completions.expect()
    operation = io.create_read_op()
    try:
        rows, _ = io.get_omap_vals_by_keys(operation, (_KEY,))
        io.operate_aio_read_op(operation, mark_object(uid), callback)
        found = await _found(f"reading the owner mark of volume {uid}", future)
        value: bytes | None = dict(rows).get(_KEY) if found else None
    finally:
        io.release_read_op(operation)
    return None if value is None else value.decode("utf-8", "replace")


async def _replace(connection: Connection, io: Any, uid: str, old: str | None, new: str) -> bool:
    """Write `new` if `old` is still there; False if it is not."""
    future, callback = connection.completions.expect()
    operation = io.create_write_op()
    try:
        if old is None:
            operation.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
        else:
            operation.omap_cmp(_KEY, old, rados.LIBRADOS_CMPXATTR_OP_EQ)
        io.set_omap(operation, (_KEY,), (new.encode(),))
        io.operate_aio_write_op(operation, mark_object(uid), callback)
        await ended(f"changing the owner mark of volume {uid}", future, _TIMEOUT_S)
    except Error as error:
        if _number(error) in (errno.ECANCELED, errno.EEXIST, errno.ENOENT):
            return False
        raise
    finally:
        io.release_write_op(operation)
    return True
