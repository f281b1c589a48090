"""The servers of this host as domains of libvirt. It does what it is told; agent/compute/plan.py decides.

One connection, on threads of its own (agent/compute/threads.py); it is opened again when libvirtd comes back. Nothing is replayed
then, so whoever listens is told to look at everything.
"""

import asyncio
import base64
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import libvirt

from agent.compute import events, xml
from agent.compute.driver import ConsoleInput, Definition, DiskUsage, Domain, RbdSource, Usage
from agent.compute.processes import Processes
from agent.compute.threads import KeyedThreads
from kumo.errors import Error, FailedPrecondition, NotFound, Unavailable
from kumo.ids import is_uid
from kumo.log import get_logger

log = get_logger(__name__)

T = TypeVar("T")

_LOOK_S = 5.0
_CHANGE_S = 30.0
_START_S = 60.0
_RECONNECT_FIRST_S = 0.1
_RECONNECT_MOST_S = 2.0
_KEEPALIVE_S = 5
_KEEPALIVE_COUNT = 3
_CONSOLE_STALL_S = 2.0
_USAGE = libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_BLOCK
# A guest that another call holds, or that hangs, is left out of it: one does not make all wait.
_USAGE_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_RUNNING | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
# Whoever paused it, it shall run; a guest that stopped at an error of its disk is another matter.
_RESUMABLE = (libvirt.VIR_DOMAIN_PAUSED_USER, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN)


class LibvirtHypervisor:
    """Implements driver.Hypervisor. run() must be running, or every call raises Unavailable."""

    def __init__(
        self,
        uri: str,
        processes: Processes,
        *,
        run_directory: Path,
        log_directory: Path,
        console_directory: Path,
    ) -> None:
        """`run_directory` and `log_directory` are libvirt's, where QEMU's pid files are and what QEMU had to say."""
        self._uri = uri
        self._processes = processes
        self._run_directory = run_directory
        self._log_directory = log_directory
        self._console_directory = console_directory
        # The Ceph users whose keys this connection has been given, and the keys.
        self._keys: dict[str, str] = {}
        self._threads = KeyedThreads("libvirt")
        self._connection: Any = None
        self._why_away = "not connected yet"

    @property
    def problem(self) -> str:
        """Why libvirt cannot be used at present; empty when it can."""
        return "" if self._connection is not None else f"libvirt is away: {self._why_away}"

    async def versions(self) -> dict[str, str]:
        def ask() -> dict[str, str]:
            connection = self._connected()
            return {"libvirt": _dotted(connection.getLibVersion()), "qemu": _dotted(connection.getVersion())}

        return await self._call("versions", _CHANGE_S, ask)

    def digest_of(self, definition: Definition) -> str:
        return self._render(definition)[1]

    async def list_uids(self) -> list[str]:
        return await self._call("list", _LOOK_S, lambda: [domain.name() for domain in self._own_domains()])

    async def forbid_autostart(self) -> list[str]:
        def work() -> list[str]:
            marked = self._own_domains(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)
            for domain in marked:
                domain.setAutostart(False)
            return [domain.name() for domain in marked]

        return await self._call("autostart", _CHANGE_S, work)

    async def look(self, uid: str) -> Domain | None:
        return await self._call(uid, _LOOK_S, lambda: self._look(uid))

    async def usage(self) -> list[Usage]:
        def ask() -> list[Usage]:
            found = self._connected().getAllDomainStats(_USAGE, _USAGE_FLAGS)
            return [_usage(domain.name(), stats) for domain, stats in found if is_uid(domain.name()) and "cpu.time" in stats]

        return await self._call("usage", _LOOK_S, ask)

    async def define(self, definition: Definition) -> None:
        text = self._render(definition)[0]
        await self._call(definition.uid, _CHANGE_S, lambda: self._connected().defineXML(text))

    async def start(self, definition: Definition) -> None:
        def work() -> None:
            self._give_keys(definition)
            domain = self._lookup(definition.uid)
            if domain.isActive():
                if self._process(definition.uid) is not None:
                    return
                # libvirt has not noticed yet that the process has ended.
                _while_active(domain, domain.destroy)
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

        await self._call(definition.uid, _START_S, work)

    async def resume(self, uid: str) -> None:
        await self._call(uid, _CHANGE_S, lambda: self._lookup(uid).resume())

    async def ask_to_stop(self, uid: str) -> None:
        def work() -> None:
            domain = self._lookup(uid)
            _while_active(domain, lambda: domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN))

        await self._call(uid, _CHANGE_S, work)

    async def cut_power(self, uid: str) -> None:
        def work() -> None:
            domain = self._find(uid)
            if domain is not None:
                _while_active(domain, domain.destroy)

        await self._call(uid, _CHANGE_S, work)

    async def undefine(self, uid: str) -> None:
        def work() -> None:
            domain = self._find(uid)
            if domain is not None:
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
            # libvirt would keep one for each guest that ever was.
            for log_file in (self._log_directory / "qemu").glob(f"{uid}.log*"):
                log_file.unlink(missing_ok=True)

        await self._call(uid, _CHANGE_S, work)

    async def open_console(self, uid: str) -> ConsoleInput:
        def work() -> _LibvirtConsole:
            stream = self._connected().newStream(libvirt.VIR_STREAM_NONBLOCK)
            # A session that an earlier life of this agent left behind is cut: the console is the agent's.
            self._lookup(uid).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
            return _LibvirtConsole(stream, uid, self._call)

        return await self._call(f"console {uid}", _LOOK_S, work)

    async def run(self, on_change: Callable[[str | None], None]) -> None:
        events.ensure_running()
        delay_s = _RECONNECT_FIRST_S
        try:
            while True:
                lost = asyncio.Event()
                try:
                    await self._connect(lost, on_change)
                except Error as error:
                    if delay_s == _RECONNECT_FIRST_S:
                        log.warning("libvirt away", uri=self._uri, why=error.message)
                    self._why_away = error.message
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, _RECONNECT_MOST_S)
                    continue
                delay_s = _RECONNECT_FIRST_S
                log.info("libvirt connected", uri=self._uri)
                on_change(None)
                await lost.wait()
                self._connection, self._why_away = None, "the connection was lost"
                log.warning("libvirt lost", uri=self._uri)
                on_change(None)
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(Error):
                    await self._call("connection", _LOOK_S, connection.close)

    async def _connect(self, lost: asyncio.Event, on_change: Callable[[str | None], None]) -> None:
        loop = asyncio.get_running_loop()

        def work() -> Any:
            connection = libvirt.open(self._uri)
            connection.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_COUNT)
            connection.registerCloseCallback(lambda *_: _tell(loop, lost.set), None)
            connection.domainEventRegisterAny(
                None,
                libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                lambda _connection, domain, *_: _tell(loop, on_change, domain.name()),
                None,
            )
            return connection

        connection = await self._call("connection", _CHANGE_S, work)
        self._keys.clear()
        self._connection = connection

    def _own_domains(self, flags: int = 0) -> list[Any]:
        domains = self._connected().listAllDomains(flags)
        return [domain for domain in domains if is_uid(domain.name()) and _owner(domain) is not None]

    def _give_keys(self, definition: Definition) -> None:
        """Have libvirt hold the keys of the disks' users; it forgets them when it ends."""
        for disk in definition.disks:
            source = disk.source
            if isinstance(source, RbdSource) and self._keys.get(source.user) != source.key:
                self._connected().secretDefineXML(xml.secret(source.user)).setValue(base64.b64decode(source.key))
                self._keys[source.user] = source.key

    def _render(self, definition: Definition) -> tuple[str, str]:
        return xml.render(definition, self._console_directory / f"{definition.uid}.log")

    def _look(self, uid: str) -> Domain | None:
        domain = self._find(uid)
        owner = _owner(domain) if domain is not None else None
        if domain is None or owner is None:
            return None
        seen = Domain(uid, owner.generation, owner.epoch, owner.digest, virt_type=owner.virt_type)
        process = self._process(uid) if domain.isActive() else None
        if process is None:
            return seen
        state, reason = domain.state()
        return Domain(
            uid,
            owner.generation,
            owner.epoch,
            owner.digest,
            process,
            self._processes.start_time(process),
            owner.virt_type,
            # A libvirtd that finds it so when it comes back ends it.
            starting=state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
            paused=state == libvirt.VIR_DOMAIN_PAUSED and reason in _RESUMABLE,
            halted=state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR,
        )

    def _process(self, uid: str) -> Any:
        try:
            pid = int((self._run_directory / "qemu" / f"{uid}.pid").read_text())
        except FileNotFoundError:
            return None  # libvirt removes it as the process ends
        except ValueError as error:
            raise Unavailable("PID_FILE_TORN", f"the pid file of {uid} holds no number", uid=uid) from error
        return self._processes.find(pid)

    def _lookup(self, uid: str) -> Any:
        domain = self._find(uid)
        if domain is None:
            raise NotFound("SERVER_NOT_DEFINED", f"libvirt knows no domain {uid}", uid=uid)
        return domain

    def _find(self, uid: str) -> Any:
        try:
            return self._connected().lookupByUUIDString(uid)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _connected(self) -> Any:
        if self._connection is None:
            raise Unavailable("LIBVIRT_AWAY", f"libvirt is away: {self._why_away}", fix="look whether libvirtd runs")
        return self._connection

    async def _call(self, key: str, timeout_s: float, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except libvirt.libvirtError as error:
                raise _translated(error) from error
            except OSError as error:
                raise Unavailable("HOST_FILE_UNREADABLE", str(error)) from error

        return await self._threads.call(key, timeout_s, guarded)


class _LibvirtConsole:
    """One stream into a serial console. What comes out of it is thrown away: it lies in the log, whole and from the start."""

    def __init__(self, stream: Any, uid: str, call: Callable[[str, float, Callable[[], None]], Awaitable[None]]) -> None:
        self._stream = stream
        self._uid = uid
        self._call = call
        self._writable = threading.Event()
        self.closed = False
        self._events = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR
        stream.eventAddCallback(self._events, self._on_event, None)

    async def send(self, data: bytes) -> None:
        await self._call(f"console {self._uid}", _LOOK_S, lambda: self._send(data))

    async def close(self) -> None:
        if not self.closed:
            self._ended()
            await self._call(f"console {self._uid}", _LOOK_S, self._stream.abort)

    def _ended(self) -> None:
        self.closed = True
        self._writable.set()
        with suppress(libvirt.libvirtError):  # it has ended already
            self._stream.eventRemoveCallback()

    def _send(self, data: bytes) -> None:
        while data and not self.closed:
            sent = self._stream.send(data)
            if sent >= 0:
                data = data[sent:]
                continue
            self._writable.clear()
            self._stream.eventUpdateCallback(self._events | libvirt.VIR_STREAM_EVENT_WRITABLE)
            if not self._writable.wait(_CONSOLE_STALL_S):
                raise Unavailable("CONSOLE_STALLED", f"the console of {self._uid} takes no input", fix="try again", uid=self._uid)

    def _on_event(self, stream: Any, what: int, _opaque: object) -> None:
        """Called on libvirt's own thread."""
        if what & libvirt.VIR_STREAM_EVENT_WRITABLE:
            stream.eventUpdateCallback(self._events)
            self._writable.set()
        try:
            while what & libvirt.VIR_STREAM_EVENT_READABLE and isinstance(got := stream.recv(65536), bytes):
                if not got:
                    self._ended()
                    return
        except libvirt.libvirtError:
            self._ended()
            return
        if what & (libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR):
            self._ended()


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Call in the event loop, from libvirt's thread."""
    with suppress(RuntimeError):  # the loop is closed: the process is ending
        loop.call_soon_threadsafe(call, *arguments)


def _while_active(domain: Any, act: Callable[[], object]) -> None:
    """Do what only a running guest can be done to; one that ends meanwhile, or has ended, is left alone."""
    if not domain.isActive():
        return
    try:
        act()
    except libvirt.libvirtError:
        if domain.isActive():
            raise


def _usage(uid: str, stats: dict[str, Any]) -> Usage:
    """Source: virConnectGetAllDomainStats."""

    def disk(index: int) -> DiskUsage:
        return DiskUsage(*(stats.get(f"block.{index}.{name}", 0) for name in ("rd.bytes", "rd.reqs", "wr.bytes", "wr.reqs")))

    disks = tuple(disk(index) for index in range(stats.get("block.count", 0)))
    return Usage(uid, stats["cpu.time"] / 1e9, stats.get("balloon.rss", 0) * 1024, disks)


def _owner(domain: Any) -> xml.Owner | None:
    return xml.parse_owner(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def _translated(error: Any) -> Error:
    code, message = error.get_error_code(), str(error.get_error_message())
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return NotFound("SERVER_NOT_DEFINED", message)
    lost = code in (libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN)
    if lost or error.get_error_domain() == libvirt.VIR_FROM_RPC:
        return Unavailable("LIBVIRT_AWAY", message, fix="look whether libvirtd runs")
    return FailedPrecondition("LIBVIRT_REFUSED", message, fix="look at what libvirt says", code=code)


def _dotted(version: int) -> str:
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"
