"""The disks of this host's servers: what a definition says of them, whose they are, who holds them open, and dead clients' locks."""

from collections.abc import Mapping

from agent.compute.driver import Disk, FileSource, Process, RbdSource
from agent.compute.kept import Clients, KeptServers
from agent.compute.processes import Processes
from agent.storage.driver import DeadClient, Disks, RbdDisk
from agent.storage.proof import BootGone, ProcessGone
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest, DesiredDisk
from kumo.api.agent.v1.state_pb2 import KeptDisk
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference
from kumo.errors import Error, FailedPrecondition
from kumo.log import get_logger

log = get_logger(__name__)

# The guest finds its disks by it; virtio keeps 20 characters.
_SERIAL_CHARACTERS = 20


class ServerDisks:
    """The disks of servers on `host`."""

    def __init__(self, host: str, drivers: Mapping[str, Disks], kept: KeptServers, processes: Processes) -> None:
        """`drivers` are the storage drivers of this host by the name that pools call them by."""
        self._host, self._drivers, self._kept, self._processes = host, drivers, kept, processes
        self._sources: dict[str, RbdSource | FileSource] = {}
        # Clients of a server that are dead but that Ceph still shows for half a minute.
        self._dead: dict[str, frozenset[str]] = {}

    async def definition_of(self, disk: DesiredDisk) -> Disk:
        return Disk(await self._source(disk), disk.volume_uid.replace("-", "")[:_SERIAL_CHARACTERS])

    async def _source(self, disk: DesiredDisk) -> RbdSource | FileSource:
        known = self._sources.get(disk.volume_uid)
        if known is None:
            said = await self._of(disk.pool).disk_source(disk.pool, disk.volume_uid)
            if isinstance(said, RbdDisk):
                known = RbdSource(said.pool, said.image, said.monitors, said.user, said.key)
            else:
                known = FileSource(str(said.path))
            self._sources[disk.volume_uid] = known
        return known

    async def foreign(self, command: ApplyServerRequest) -> str:
        """Return why a disk is not this server's under the command's epoch; empty if all are."""
        mine = self._owner(command)
        for disk in command.desired.disks:
            try:
                owner = await self._of(disk.pool).owner_of(disk.pool, disk.volume_uid)
            except Error as error:
                return f"whose disk volume {disk.volume_uid} is cannot be read: {error.message}"
            if owner is None or not owner.server_uid:
                return f"volume {disk.volume_uid} has no owner's mark"
            if owner != mine:
                there = f"server {owner.server_uid} on {owner.host} at epoch {owner.epoch.cell}.{owner.epoch.host}"
                return f"the mark of volume {disk.volume_uid} names {there}"
        return ""

    def _owner(self, command: ApplyServerRequest) -> Owner:
        return Owner(server_uid=command.uid, host=self._host, epoch=command.stamp.epoch)

    async def keep_clients(self, command: ApplyServerRequest, process: Process) -> None:
        """Keep on disk who holds the server's disks open now that `process` runs, before it may write."""
        disks: list[KeptDisk] = []
        for disk in command.desired.disks:
            found = await self._of(disk.pool).client_addresses(disk.pool, disk.volume_uid)
            addresses = [address for address in found if address not in self._dead.get(command.uid, ())]
            disks.append(KeptDisk(volume_uid=disk.volume_uid, pool=disk.pool, client_addresses=addresses))
        await self._kept.keep_clients(command.uid, Clients(process, tuple(disks)))

    async def break_locks(self, command: ApplyServerRequest) -> None:
        """Take the locks of the process that is kept, which has ended, and forget its clients."""
        clients = self._kept.clients(command.uid)
        if clients is None:
            return
        process, boot_id = clients.process, self._processes.boot_id
        proof = ProcessGone(process.pid, process.start_ticks) if process.boot_id == boot_id else BootGone(process.boot_id, boot_id)
        for disk in clients.disks:
            if not disk.client_addresses:
                continue
            dead = DeadClient(self._owner(command), list(disk.client_addresses), proof)
            try:
                await self._of(disk.pool).break_dead_lock(disk.pool, disk.volume_uid, dead)
            except FailedPrecondition as error:
                # The disk went to another, or another holds it: whatever lock there is, it is not this process's any more.
                if error.reason not in ("OWNER_CHANGED", "LOCK_FOREIGN"):
                    raise
                log.warning("lock left alone", server=command.uid, volume=disk.volume_uid, reason=error.reason, why=error.message)
        self._dead[command.uid] = frozenset(clients.addresses())
        await self._kept.forget_clients(command.uid)

    def forget(self, uid: str) -> None:
        """Forget what is known in memory of a server that is gone."""
        self._dead.pop(uid, None)

    def _of(self, pool: PoolReference) -> Disks:
        driver = self._drivers.get(pool.driver)
        if driver is None:
            raise FailedPrecondition(
                "DRIVER_MISSING", f"this host has no storage driver {pool.driver!r}", fix="configure the pool's driver", driver=pool.driver
            )
        return driver
