"""The network role of one host as the agent wires it, without a controller: commands go straight in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from agent.guest.client import ResponderClient
from agent.guest.files import GuestFiles
from agent.network.driver import Driver
from agent.network.kernel import KernelConfig, KernelDriver
from agent.network.reconciler import NetworkReconciler
from agent.stamps import Commands, Terms
from agent.state import StateFiles
from kumo.api.agent.v1.network_pb2 import (
    ApplyNetworkRequest,
    ApplyPortRequest,
    DesiredNetwork,
    DesiredPort,
    PortFacts,
    RemotePort,
)
from kumo.api.type.v1.stamp_pb2 import Stamp, Term
from kumo.ids import new_uid

INCARNATION = new_uid()
# Two hosts of the addresses that are for documentation.
TUNNEL_ADDRESS, FAR_ADDRESS, TUNNEL_PORT = "192.0.2.1", "192.0.2.9", 4789


class Rig:
    """One start of the agent's network role."""

    def __init__(self, directory: Path, driver: Driver, *, responder: Path, group: int | None = None) -> None:
        self.files = StateFiles(directory / "state")
        self.terms = Terms(self.files)
        self.networks = Commands(self.files, "networks", ApplyNetworkRequest, self.terms)
        self.ports = Commands(self.files, "ports", ApplyPortRequest, self.terms)
        for kept in (self.terms, self.networks, self.ports):
            kept.load()
        self.guests = GuestFiles(directory / "guest", group)
        self.driver = driver
        self.facts: dict[str, PortFacts] = {}
        self._changed = asyncio.Event()
        self.is_known = False
        self.network = NetworkReconciler(
            driver,
            self.guests,
            ResponderClient(responder),
            self.networks,
            self.ports,
            on_facts=self._on_facts,
            on_known=self._on_known,
            is_certain=lambda: not self.files.problems,
        )
        self._sequence = max((command.stamp.sequence for kept in (self.networks, self.ports) for command in kept.held.values()), default=0)

    def _on_facts(self, facts: PortFacts) -> None:
        self.facts[facts.uid] = facts
        self._changed.set()

    def _on_known(self) -> None:
        self.is_known = True
        self._changed.set()

    def stamp(self) -> Stamp:
        self._sequence += 1
        return Stamp(term=Term(incarnation=INCARNATION, create_revision=1), sequence=self._sequence)

    async def put_network(
        self, uid: str, vni: int, cidr: str = "10.0.0.0/24", mtu: int = 1450, remotes: tuple[RemotePort, ...] = ()
    ) -> None:
        desired = DesiredNetwork(name="networks/n", vni=vni, mtu=mtu, cidrs=[cidr], remotes=remotes)
        await self.network.apply_network(ApplyNetworkRequest(stamp=self.stamp(), uid=uid, desired=desired))

    async def put_port(self, uid: str, network_uid: str, mac: str, address: str, server_uid: str = "", gateway: str = "") -> None:
        desired = DesiredPort(
            name="ports/p",
            network_uid=network_uid,
            mac=mac,
            address=address,
            prefix_length=24,
            gateway=gateway,
            dns_servers=["192.0.2.53"],
            hostname="guest",
            server_uid=server_uid or new_uid(),
        )
        await self.network.apply_port(ApplyPortRequest(stamp=self.stamp(), uid=uid, desired=desired))

    async def drop_network(self, uid: str) -> None:
        await self.network.apply_network(ApplyNetworkRequest(stamp=self.stamp(), uid=uid))

    async def drop_port(self, uid: str) -> None:
        await self.network.apply_port(ApplyPortRequest(stamp=self.stamp(), uid=uid))

    async def until(self, uid: str, binding: int, *, plugged: bool | None = None) -> None:
        await self.wait(lambda: uid in self.facts and self.facts[uid].binding == binding and plugged in (None, self.facts[uid].plugged))

    async def wait(self, is_so: Callable[[], bool], deadline_s: float = 15.0) -> None:
        async with asyncio.timeout(deadline_s):
            while not is_so():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self._changed.wait()


@contextlib.asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    """Start the role, and end it as abruptly as a cancelled process does."""
    await rig.network.start()
    task = asyncio.create_task(rig.network.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await rig.network.close()
        rig.files.close()


def kernel_driver(directory: Path, namespaces: Path) -> KernelDriver:
    return KernelDriver(KernelConfig(namespaces, directory / "network", TUNNEL_ADDRESS, TUNNEL_PORT))
