"""Connections to a Ceph cluster for the control path: nothing waits for ever, a full cluster says so, and deletes pass on it.

Calls without a completion form (all of librbd, connecting) run on threads that `Cluster` alone owns; operations on objects are
futures of librados' own completions. What is read or written is others'.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import rados

from kumo.errors import Error, Unavailable
from kumo.log import get_logger
from storage.failures import OperationFailed, ends_connection, translated

log = get_logger(__name__)

T = TypeVar("T")

JOB_TIMEOUT_S = 60.0
_THREADS = 4
_MORE_THAN_OPS_S = 5.0
_CONTROL = {
    # The argument of connect() does nothing: without this one a silent monitor blocks it for ever.
    "client_mount_timeout": "5",
    "rados_mon_op_timeout": "10",
    "rados_osd_op_timeout": "20",
    # Ask for a new map after a second, or a restarted OSD is noticed ten seconds late.
    "objecter_timeout": "1",
    "objecter_tick_interval": "0.5",
    # Clones that need no protected snapshot, and whose parents can be deleted before them.
    "rbd_default_clone_format": "2",
    # A host's key may not blocklist; with this a dead client's lock can be broken all the same.
    "rbd_blocklist_on_break_lock": "false",
    "log_file": "",
    "admin_socket": "",
}


@dataclass(frozen=True)
class Access:
    """How to reach a cluster, and as whom. `keyring` None: as the file at `conf_file` says."""

    conf_file: Path
    user: str
    keyring: Path | None = None
    op_timeout_s: float = 20.0


class Completions:
    """Turns completions into futures of the loop, waking it once for all that ended meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._ended: deque[tuple[asyncio.Future[Any], int, Any]] = deque()

    def expect(self) -> tuple[asyncio.Future[Any], Callable[..., None]]:
        """Return a future and the callback that ends it; it ends with what followed the completion, or OperationFailed."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def ended(completion: Any, *data: Any) -> None:
            # librados' thread: only note it and wake the loop.
            with self._lock:
                wake = not self._ended
                self._ended.append((future, completion.get_return_value(), data[0] if data else None))
            if wake:
                self._loop.call_soon_threadsafe(self._deliver)

        return future, ended

    def _deliver(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, deque()
        for future, code, data in ended:
            if future.cancelled():
                continue
            if code < 0:
                future.set_exception(OperationFailed(-code))
            else:
                future.set_result(data)


class Connection:
    """One client of the cluster: what is blocklisted is all of it. Made and closed on threads, by `Cluster`."""

    def __init__(self, access: Access, loop: asyncio.AbstractEventLoop) -> None:
        conf = _CONTROL | {"rados_osd_op_timeout": f"{access.op_timeout_s:g}"}
        if access.keyring is not None:
            conf["keyring"] = str(access.keyring)
        self.rados: Any = rados.Rados(conffile=str(access.conf_file), name=access.user, conf=conf)
        self.completions = Completions(loop)
        self.users = 0
        self.lost = False
        self._pools: dict[str, Any] = {}
        self._lock = threading.Lock()

    def connect(self) -> None:
        self.rados.connect()

    def pool(self, name: str) -> Any:
        """Return the I/O context of a pool, one on which ENOSPC is an answer and deletes pass although the cluster is full."""
        with self._lock:
            if name not in self._pools:
                io = self.rados.open_ioctx(name)
                io.set_osdmap_full_try()
                self._pools[name] = io
            return self._pools[name]

    def address(self) -> str:
        """The address by which others see and fence this client, as ip:port/nonce."""
        return str(self.rados.get_addrs())

    def setting(self, name: str) -> str:
        """Return what an option of Ceph's configuration is for this client."""
        return str(self.rados.conf_get(name))

    def close(self) -> None:
        with self._lock:
            for io in self._pools.values():
                io.close()
            self._pools.clear()
        self.rados.shutdown()


class Cluster:
    """The connections of this process to one cluster: a shared one for short work, and one of its own for each long job."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ceph")
        self._shared: Connection | None = None
        self._opening = asyncio.Lock()

    @property
    def access(self) -> Access:
        return self._access

    async def run(self, what: str, work: Callable[[Connection], T], timeout_s: float = JOB_TIMEOUT_S) -> T:
        """Return what `work` returns, called on a thread with the shared connection.

        Raises Unavailable CEPH_STUCK if it did not end in `timeout_s`; it may still go on, on a connection that nobody else gets.
        """
        async with self.shared() as connection:
            return await self._on_thread(what, connection, work, timeout_s)

    async def run_alone(self, what: str, work: Callable[[Connection], T], timeout_s: float) -> T:
        """Like run(), with a connection and a thread for this job alone."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="ceph-job")
        try:
            connection = await self._open(thread)
            connection.users += 1
            try:
                return await self._on_thread(what, connection, work, timeout_s, thread)
            finally:
                thread.submit(connection.close)
        finally:
            thread.shutdown(wait=False)

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[Connection]:
        """Lend the shared connection, opened when first wanted and anew after it was lost."""
        async with self._opening:
            connection = self._shared
            if connection is None:
                connection = self._shared = await self._open(self._threads)
            connection.users += 1
        try:
            yield connection
        except Error as error:
            if ends_connection(error):
                self._lose(connection)
            raise
        finally:
            connection.users -= 1
            if connection.lost and connection.users == 0:
                self._threads.submit(connection.close)

    async def close(self) -> None:
        """Close the shared connection once what it waits for has ended."""
        if (connection := self._shared) is not None:
            self._shared = None
            await asyncio.get_running_loop().run_in_executor(self._threads, connection.close)
        self._threads.shutdown(wait=False)

    def _lose(self, connection: Connection) -> None:
        if not connection.lost:
            connection.lost = True
            log.warning("connection to Ceph given up", user=self._access.user)
        if self._shared is connection:
            self._shared = None

    async def _open(self, thread: ThreadPoolExecutor) -> Connection:
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            with translated("connecting to Ceph"):
                connection = Connection(self._access, loop)
                connection.connect()
                return connection

        try:
            async with asyncio.timeout(self._access.op_timeout_s + _MORE_THAN_OPS_S):
                return await loop.run_in_executor(thread, connect)
        except TimeoutError as error:
            raise Unavailable("CEPH_STUCK", "Ceph's monitors did not answer") from error

    async def _on_thread(
        self, what: str, connection: Connection, work: Callable[[Connection], T], timeout_s: float, thread: ThreadPoolExecutor | None = None
    ) -> T:
        def job() -> T:
            with translated(what):
                return work(connection)

        connection.users += 1
        future: Future[T] = (thread or self._threads).submit(job)
        loop = asyncio.get_running_loop()
        # Its end and not the waiter's frees the connection: a thread cannot be cancelled.
        future.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._release, connection))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError as error:
            raise Unavailable("CEPH_STUCK", f"{what}: not done within {timeout_s:.0f} s; whether it will be is unknown") from error

    def _release(self, connection: Connection) -> None:
        connection.users -= 1
        if connection.lost and connection.users == 0:
            self._threads.submit(connection.close)


async def ended(what: str, future: Awaitable[T], timeout_s: float) -> T:
    """Wait for a completion. Raises what it ended with as an Error, and Unavailable CEPH_STUCK if it did not end."""
    try:
        async with asyncio.timeout(timeout_s + _MORE_THAN_OPS_S):
            with translated(what):
                return await future
    except TimeoutError as error:
        raise Unavailable("CEPH_STUCK", f"{what}: Ceph did not answer") from error
