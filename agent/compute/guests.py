"""What a guest may read about itself, and its word that it is ready, by way of the responder's files (agent/guest/files.py)."""

import asyncio
import hashlib
from collections.abc import Callable

from agent.compute.console import ConsoleLogs
from agent.guest.files import GuestFiles, Nic, ServerMetadata
from agent.inotify import DirectoryWatch
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest, DesiredServer
from kumo.ids import is_uid


class Guests:
    """The guests' side of the servers of this host."""

    def __init__(self, files: GuestFiles, logs: ConsoleLogs) -> None:
        self._files, self._logs = files, logs

    async def write_server(self, uid: str, desired: DesiredServer) -> None:
        metadata = ServerMetadata(
            name=desired.name,
            hostname=desired.hostname,
            project_uid=desired.project_uid,
            project=desired.project,
            zone=desired.zone,
            labels=dict(desired.labels),
            ssh_keys=tuple(desired.ssh_keys),
            user_data=desired.user_data,
            nics=tuple(Nic(nic.port_uid, nic.mac, nic.mtu) for nic in desired.nics),
        )
        await asyncio.to_thread(self._files.write_server, uid, metadata)

    async def remove_server(self, uid: str) -> None:
        await asyncio.to_thread(self._files.remove_server, uid)
        await asyncio.to_thread(self._logs.remove, uid)

    def is_ready(self, uid: str) -> bool:
        return (self._files.ready / uid).exists()

    async def expect_ready(self, uid: str) -> None:
        await asyncio.to_thread((self._files.ready / uid).unlink, missing_ok=True)

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Tell `on_ready` who said that it is ready, until cancelled."""

        def on_mark(name: str) -> None:
            if is_uid(name):
                on_ready(name)

        watch = DirectoryWatch(self._files.ready, on_mark)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            watch.close()


def digest(command: ApplyServerRequest | None) -> bytes:
    """Return what tells whether the guest's files are as asked; empty where there shall be none."""
    if command is None or not command.HasField("desired"):
        return b""
    return hashlib.sha256(command.desired.SerializeToString(deterministic=True)).digest()
