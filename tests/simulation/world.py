"""A region: etcd, two controllers of each plane, hosts with fake drivers.

Every process runs what its program runs. What it keeps, in etcd and in the files of an agent, outlives it.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.compute import kvm
from agent.config import ComputeConfig, NetworkConfig
from agent.config import Config as AgentConfig
from agent.main import Agent
from controller.cell.plane import run_cell
from controller.config import CellConfig, Config, RegionConfig
from controller.region.plane import run_region
from kumo.identity import Identity
from kumo.rpc.client import channel
from kumo.tls import TlsFiles
from tests.controller.region.region_process import Api
from tests.pki import Pki
from tests.simulation.machines import ETCD, Machines, Process

REGION, CELL = "local", "a"
CONTROLLERS = ("c1", "c2")
HOSTS = ("h1", "h2")
VCPUS, MEMORY_MIB = 4, 512
LEASE_S = 2


def region_address(host: str) -> str:
    return f"127.0.0.1:74{CONTROLLERS.index(host):02}"


def cell_address(host: str) -> str:
    return f"127.0.0.1:75{CONTROLLERS.index(host):02}"


def agent_address(host: str) -> str:
    return f"127.0.0.1:76{HOSTS.index(host):02}"


def make_certificates(folder: Path) -> Pki:
    """Write what every process reads: real certificates, which nobody here looks at."""
    pki = Pki(folder)
    for host in CONTROLLERS:
        for plane in ("region", CELL):
            name = "region" if plane == "region" else "cell"
            own = pki.pem(pki.identity(plane, "controller", host))
            TlsFiles.in_folder(folder / host, name).write(pki.root.cert_pem, own)
            store = TlsFiles(folder / host / "etcd-ca.crt", folder / host / f"etcd-{name}.crt", folder / host / f"etcd-{name}.key")
            store.write(pki.root.cert_pem, own)
    for host in HOSTS:
        TlsFiles.in_folder(folder / host, "cell").write(pki.root.cert_pem, pki.pem(pki.identity(CELL, "agent", host)))
    return pki


@dataclass
class World(Machines):
    boots: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HOSTS, 1))

    def __post_init__(self) -> None:
        super().__post_init__()
        for host in CONTROLLERS:
            self.add(f"region-{host}", host, self._region)
            self.add(f"cell-{host}", host, self._cell)
            self.wire.identities[f"region-{host}"] = Identity("region", REGION, "controller", host).uri.encode()
            self.wire.identities[f"cell-{host}"] = Identity(CELL, REGION, "controller", host).uri.encode()
        for host in HOSTS:
            self.add(f"agent-{host}", host, self._agent)

    def cut_power(self, host: str) -> None:
        """End a host with its guests; its next boot is another one."""
        self.boots[host] += 1
        self.crash(f"agent-{host}", is_power=True)

    # ---- programs

    async def _region(self, process: Process) -> None:
        host = process.machine
        plane = RegionConfig(
            listen=region_address(host), store=[ETCD], cells={CELL: {one: cell_address(one) for one in CONTROLLERS}}, advertise=host
        )
        started = self.loop.create_future()
        config = Config(region=REGION, host=host, tls=self.shared / host, metrics="127.0.0.1:0", region_plane=plane, lease_s=LEASE_S)
        started.add_done_callback(lambda done: setattr(process, "inside", done.result()) if not done.cancelled() else None)
        await run_region(config, plane, started=started)

    async def _cell(self, process: Process) -> None:
        host = process.machine
        plane = CellConfig(name=CELL, listen=cell_address(host), store=[ETCD])
        config = Config(region=REGION, host=host, tls=self.shared / host, metrics="127.0.0.1:0", cell_plane=plane, lease_s=LEASE_S)
        await run_cell(config, plane)

    async def _agent(self, process: Process) -> None:
        host = process.machine
        state = self.folder / host
        for name in ("guests", "consoles"):
            (state / name).mkdir(parents=True, exist_ok=True)
        shared = self.folder / "volumes"
        shared.mkdir(exist_ok=True)
        if not (state / "volumes").is_symlink():
            (state / "volumes").symlink_to(shared)
        config = AgentConfig(
            region=REGION,
            cell=CELL,
            host=host,
            listen=agent_address(host),
            metrics="127.0.0.1:0",
            tls=self.shared / host,
            state=state,
            network=NetworkConfig(tunnel_address="127.0.0.1", guest_files=state / "guests", responder=state / "responder", driver="fake"),
            compute=ComputeConfig(driver="fake", vcpus=VCPUS, memory_mib=MEMORY_MIB, consoles=state / "consoles"),
        )
        made = Agent(config, f"boot-{self.boots[host]}", kvm.Virt("qemu", "guests are fake"))
        made.load()
        process.inside = made
        await made.run()

    # ---- looking in from outside

    def api(self, host: str) -> Api:
        return Api(channel(region_address(host), b"", server_name="region"))

    def domains(self, host: str) -> dict[str, bool]:
        """Return the domains that a host's hypervisor keeps: uid → whether it runs."""
        file = self.folder / host / "hypervisor.json"
        kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"servers": {}, "boot_id": ""}
        is_this_boot = kept["boot_id"] == f"boot-{self.boots[host]}"
        return {uid: bool(server["pid"]) and is_this_boot for uid, server in kept["servers"].items()}
