"""What is kept on disk of a server beside its command: its reboots, and who holds its disks open. Read by plan.py's World."""

from dataclasses import dataclass

from agent.compute.driver import Process
from agent.compute.plan import Reboots
from agent.state import StateFiles
from kumo.api.agent.v1.state_pb2 import KeptClients, KeptDisk, KeptProcess, KeptReboots

_REBOOTS = "server-reboots"
_CLIENTS = "server-clients"


@dataclass(frozen=True)
class Clients:
    """The storage clients of one process, disk by disk."""

    process: Process
    disks: tuple[KeptDisk, ...]

    def addresses(self) -> list[str]:
        return sorted({address for disk in self.disks for address in disk.client_addresses})


class KeptServers:
    """Both kinds of records, in memory as on disk. load() comes before all else."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files
        self._reboots: dict[str, Reboots] = {}
        self._clients: dict[str, Clients] = {}

    def load(self) -> None:
        """Read what is kept. Blocks: for the start of the process."""
        for uid, kept in self._files.load(_REBOOTS, KeptReboots).items():
            process = _process(kept.process) if kept.HasField("process") else None
            self._reboots[uid] = Reboots(kept.done, kept.begun, process)
        for uid, clients in self._files.load(_CLIENTS, KeptClients).items():
            self._clients[uid] = Clients(_process(clients.process), tuple(clients.disks))

    def uids(self) -> set[str]:
        return set(self._reboots) | set(self._clients)

    def reboots(self, uid: str) -> Reboots | None:
        return self._reboots.get(uid)

    def clients(self, uid: str) -> Clients | None:
        return self._clients.get(uid)

    async def keep_reboots(self, uid: str, reboots: Reboots) -> None:
        kept = KeptReboots(done=reboots.done, begun=reboots.begun, process=_message(reboots.process) if reboots.process else None)
        await self._files.save(_REBOOTS, uid, kept)
        self._reboots[uid] = reboots

    async def keep_clients(self, uid: str, clients: Clients) -> None:
        await self._files.save(_CLIENTS, uid, KeptClients(process=_message(clients.process), disks=clients.disks))
        self._clients[uid] = clients

    async def forget_clients(self, uid: str) -> None:
        await self._files.remove(_CLIENTS, uid)
        self._clients.pop(uid, None)

    async def forget_reboots(self, uid: str) -> None:
        await self._files.remove(_REBOOTS, uid)
        self._reboots.pop(uid, None)


def _process(kept: KeptProcess) -> Process:
    return Process(kept.boot_id, kept.pid, kept.start_ticks)


def _message(process: Process) -> KeptProcess:
    return KeptProcess(boot_id=process.boot_id, pid=process.pid, start_ticks=process.start_ticks)
