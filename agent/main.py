"""The kumo-agent program: what is made of what, and in which order it starts and stops.

usage: kumo-agent --config FILE
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agent import privileges, program
from agent.compute import kvm
from agent.compute.console import ConsoleInputs, ConsoleLogs
from agent.compute.disks import ServerDisks
from agent.compute.driver import Hypervisor
from agent.compute.fake import FakeHypervisor
from agent.compute.guests import Guests
from agent.compute.kept import KeptServers
from agent.compute.processes import Processes, read_boot_id
from agent.compute.reconciler import Here, ServerReconciler
from agent.compute.service import Compute
from agent.config import Config, split_address
from agent.facts import FactBook
from agent.guest.client import ResponderClient
from agent.guest.files import GuestFiles
from agent.host import HostDescription
from agent.meters import PATH as METERS_PATH
from agent.meters import Meters
from agent.network import fake as fake_network
from agent.network import names, planes
from agent.network.driver import Driver as NetworkDriver
from agent.network.kernel import KernelConfig, KernelDriver
from agent.network.reconciler import NetworkReconciler
from agent.network.service import NetworkService
from agent.program import told_to_end
from agent.service import Agents
from agent.stamps import Commands, Terms
from agent.state import StateFiles
from agent.storage.checks import ImageChecks, ImageLimits
from agent.storage.driver import StorageDriver
from agent.storage.fake import FakeChecks, FakeDriver
from agent.storage.file import FileDriver
from agent.storage.imports import ImageImports
from agent.storage.sandbox import IMAGE_USER, Sandbox
from agent.storage.service import Storage
from agent.storage.staging import Staging
from kumo.api.agent.v1 import agent_pb2_grpc, compute_pb2_grpc, network_pb2_grpc, storage_pb2_grpc
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest
from kumo.api.agent.v1.network_pb2 import ApplyNetworkRequest, ApplyPortRequest
from kumo.capabilities import SERVICES
from kumo.errors import Error
from kumo.log import get_logger
from kumo.memory import settle
from kumo.metrics import MetricsServer
from kumo.rpc.identity import PeerRule, Peers
from kumo.rpc.server import INTERNAL, Server
from kumo.tls import ServerTls, TlsFiles

log = get_logger(__name__)

# A second SIGTERM, or a thread that hangs, must not keep the process.
_STOP_S = 10.0
_REFRESH_S = 1.0
_ADDRESSES_S = 5.0
_TOMBSTONES_S = 300.0


@dataclass(frozen=True)
class Shared:
    """What the agents of fake hosts in one process have in common (agent/fleet.py); an agent of a real host is alone, and has it all."""

    storage: StorageDriver
    state_thread: ThreadPoolExecutor


class Agent:
    """All parts of one agent, made and wired. run() works until cancelled."""

    def __init__(self, config: Config, boot_id: str, virt: kvm.Virt, shared: Shared | None = None) -> None:
        self._config = config
        self._shared = shared
        # Hosts that share a disk keep nothing of it back, each for itself.
        self._files = StateFiles(config.state / "kept", thread=shared.state_thread, reserve_bytes=0) if shared else _own_files(config)
        self._terms = Terms(self._files)
        self._servers = Commands(self._files, "servers", ApplyServerRequest, self._terms)
        self._networks = Commands(self._files, "networks", ApplyNetworkRequest, self._terms)
        self._ports = Commands(self._files, "ports", ApplyPortRequest, self._terms)
        self._kept = KeptServers(self._files)
        self._guest_files = GuestFiles(config.network.guest_files, config.network.guest_gid or None)
        self._book = FactBook(frozenset(config.roles) & {"compute", "network"})
        self._drivers = {"fake": shared.storage} if shared else _storage_drivers(config)
        self._staging = Staging(config.state / "staging", self._files, reader=None if shared else IMAGE_USER)
        imports = ImageImports(self._staging, FakeChecks() if shared else _checks(self._staging))
        self._storage = Storage(self._terms, self._drivers, self._staging, imports)
        network_driver = _network_driver(config)
        self._network = NetworkReconciler(
            network_driver,
            self._guest_files,
            ResponderClient(config.network.responder),
            self._networks,
            self._ports,
            on_facts=self._book.set_port,
            on_known=lambda: self._book.list_is_known("network"),
            is_certain=lambda: not self._files.problems,
        )
        processes = Processes(boot_id)
        self._logs = ConsoleLogs(config.compute.consoles)
        self._hypervisor = _hypervisor(config, processes)
        self._meters = Meters(self._hypervisor, network_driver, lambda: self._servers.held)
        self._guests = Guests(self._guest_files, self._logs)
        self._compute = ServerReconciler(
            Here(config.host, virt.kind, processes, names.tap, has_taps=config.compute.driver != "fake"),
            self._servers,
            self._hypervisor,
            self._book,
            self._kept,
            ServerDisks(config.host, self._drivers, self._kept, processes),
            self._guests,
        )
        problems = (lambda: self._files.problems, lambda: [self._hypervisor.problem])
        self._host = HostDescription(config, self._book, self._terms, boot_id=boot_id, virt=virt, problems=problems)
        self._tls = ServerTls(TlsFiles.in_folder(config.tls, "cell"))
        self._server = self._listener()

    def load(self) -> None:
        """Read what is kept. Blocks: comes before run(). Raises FailedPrecondition if a newer agent wrote it."""
        self._terms.load()
        for commands in (self._servers, self._networks, self._ports):
            commands.load()
        self._kept.load()
        self._staging.load()

    async def run(self) -> None:
        """Rules first, then guests, then whoever commands: what is kept is in force before anything new is asked for."""
        await self._network.start()
        self._host.refresh()
        try:
            async with asyncio.TaskGroup() as tasks:
                for part in self._parts():
                    tasks.create_task(part)
                await self._server.start()
                if self._shared is None:
                    tasks.create_task(settle())
        finally:
            await self._server.stop()
            await self._network.close()
            if self._shared is None:
                for driver in self._drivers.values():
                    await driver.close()

    def _parts(self) -> list[Coroutine[Any, Any, None]]:
        config = self._config
        parts: list[Coroutine[Any, Any, None]] = [self._tls.run(), self._keep_host(), self._keep_tombstones()]
        if self._shared is None:
            pages = {METERS_PATH: self._meters.exposition}
            parts.append(MetricsServer("kumo-agent", *split_address(config.metrics), pages=pages).run())
        if "network" in config.roles:
            parts.append(self._network.run())
        if config.network.driver == "kernel":
            parts.append(self._keep_addresses())
        if "storage" in config.roles:
            parts.append(self._storage.run())
        if "compute" in config.roles:
            parts += [self._hypervisor.run(self._compute.wake), self._compute.run()]
            if self._shared is None:
                # Fake hosts have no responder that would write marks, and the kernel gives a user only so many watches.
                parts.append(self._guests.run(self._compute.wake))
        return parts

    def _listener(self) -> Server:
        config = self._config
        peers = Peers([PeerRule(config.cell, config.region, "controller")])
        server = Server(config.listen, self._tls, peers, port=INTERNAL)
        commands = (self._servers, self._networks, self._ports)
        server.add(agent_pb2_grpc.add_AgentsServicer_to_server, Agents(self._book, self._terms, commands, self._host.refresh))
        if "compute" in config.roles:
            inputs = ConsoleInputs(self._hypervisor.open_console)
            compute = Compute(self._compute, self._servers, self._logs, inputs)
            server.add(compute_pb2_grpc.add_ComputeServicer_to_server, compute)
        if "network" in config.roles:
            server.add(network_pb2_grpc.add_NetworkServicer_to_server, NetworkService(self._network))
        if "storage" in config.roles:
            server.add(storage_pb2_grpc.add_StorageServicer_to_server, self._storage)
        for role, service in SERVICES.items():
            if role not in config.roles:
                fix = f"name {role} among `roles` in the configuration of the agent of host {config.host}, and start it again"
                server.disable(service, fix)
        return server

    async def _keep_host(self) -> None:
        """Have the facts of the host fresh for whoever watches."""
        asked = False
        while True:
            if not asked and not self._hypervisor.problem:
                try:
                    self._host.set_versions(await self._hypervisor.versions())
                    asked = True
                except Error as error:
                    log.info("versions not known yet", why=error.message)
            self._host.refresh()
            await asyncio.sleep(_REFRESH_S)

    async def _keep_addresses(self) -> None:
        """Look now and then: whoever moves an address or changes a link does so by hand."""
        while True:
            try:
                self._host.set_addresses(await asyncio.to_thread(planes.addresses))
            except OSError as error:
                log.warning("addresses of the host not read", why=str(error))
            await asyncio.sleep(_ADDRESSES_S)

    async def _keep_tombstones(self) -> None:
        while True:
            await asyncio.sleep(_TOMBSTONES_S)
            await self._compute.forget_old_tombstones()
            for commands in (self._networks, self._ports):
                for uid in await commands.drop_old_tombstones():
                    self._book.drop(uid)


def _own_files(config: Config) -> StateFiles:
    return StateFiles(config.state / "kept")


def _hypervisor(config: Config, processes: Processes) -> Hypervisor:
    compute = config.compute
    if compute.driver == "fake":
        return FakeHypervisor(config.state / "hypervisor.json", processes.boot_id, compute.consoles)
    # Only where it is used: the bindings are large.
    from agent.compute.libvirt import LibvirtHypervisor

    return LibvirtHypervisor(
        compute.libvirt_uri,
        processes,
        run_directory=compute.libvirt_run,
        log_directory=compute.libvirt_log,
        console_directory=compute.consoles,
    )


def _network_driver(config: Config) -> NetworkDriver:
    network = config.network
    if network.driver == "fake":
        return fake_network.FakeDriver(config.state / "network.json")
    kernel = KernelConfig(network.namespaces, config.state / "network", network.tunnel_address, network.tunnel_port)
    return KernelDriver(kernel)


def _storage_drivers(config: Config) -> dict[str, StorageDriver]:
    drivers: dict[str, StorageDriver] = {"fake": FakeDriver(config.state / "volumes")}
    if config.storage.directory is not None:
        drivers["file"] = FileDriver(config.storage.directory)
    if config.storage.ceph_conf is not None:
        # Only where it is used: librados is large.
        from agent.storage.rbd import RbdDriver
        from storage.rados import Access

        drivers["rbd"] = RbdDriver(Access(config.storage.ceph_conf, config.storage.ceph_user))
    return drivers


def _checks(staging: Staging) -> ImageChecks:
    # Jails' roots lie in the staging folder, from which load() removes what a crash left.
    return ImageChecks(Sandbox(staging.directory), ImageLimits(), staging.room_bytes)


async def _serve(config: Config) -> None:
    privileges.keep_only(frozenset(privileges.Capability))  # before any thread is started, which would keep its own
    boot_id = read_boot_id()
    config.state.mkdir(parents=True, exist_ok=True, mode=0o711)
    virt = kvm.Virt("qemu", "guests are fake")
    if config.compute.driver == "libvirt":
        virt = await kvm.choose(config.compute.virt, boot_id, config.state / "virt.json")
    agent = Agent(config, boot_id, virt)
    agent.load()
    stop = told_to_end()
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(agent.run())
        await stop.wait()
        log.info("agent stops")
        asyncio.get_running_loop().call_later(_STOP_S, os._exit, 0)
        work.cancel()


def main(arguments: list[str] | None = None) -> int:
    return program.run("kumo-agent", sys.argv[1:] if arguments is None else arguments, Config, _serve)


if __name__ == "__main__":
    sys.exit(main())
