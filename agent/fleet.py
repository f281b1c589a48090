"""The kumo-fake-hosts program: many hosts in one process, each the agent of a real host above its drivers, which are the fakes.

Each host has an address, a certificate, a connection and a folder of its own, and keeps what it was told across restarts. They share a
pool of volumes, as hosts of a cell do, and one thread for their files: a thousand hosts would else be thousands of threads.

usage: kumo-fake-hosts --config FILE
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from agent import config as agent_config
from agent import program
from agent.compute.kvm import Virt
from agent.compute.processes import read_boot_id
from agent.main import Agent, Shared
from agent.program import told_to_end
from agent.storage.fake import FakeDriver
from kumo.memory import settle
from kumo.metrics import MetricsServer


@dataclass(frozen=True)
class FleetConfig:
    """`count` hosts called f1, f2, ...; `tls` and `state` hold a folder for each by its name, `tls` with ca.crt, cell.crt and cell.key.

    Host n listens on `port` of the address n-1 above `first_address`.
    """

    region: str
    cell: str
    count: int
    tls: Path
    state: Path
    port: int
    metrics: str
    first_address: str = "127.1.0.1"
    vcpus: int = 16
    memory_mib: int = 32_768
    log_level: str = "WARNING"

    def hosts(self) -> list[str]:
        return [f"f{number}" for number in range(1, self.count + 1)]

    def address(self, host: str) -> str:
        """Return where the agent of `host` listens."""
        return f"{IPv4Address(self.first_address) + int(host[1:]) - 1}:{self.port}"

    def agent(self, host: str) -> agent_config.Config:
        state = self.state / host
        return agent_config.Config(
            region=self.region,
            cell=self.cell,
            host=host,
            listen=self.address(host),
            metrics=self.metrics,
            tls=self.tls / host,
            state=state,
            network=agent_config.NetworkConfig(
                tunnel_address=self.address(host).partition(":")[0],
                guest_files=state / "guests",
                responder=state / "responder.sock",
                driver="fake",
            ),
            compute=agent_config.ComputeConfig(driver="fake", consoles=state / "consoles", vcpus=self.vcpus, memory_mib=self.memory_mib),
        )


async def serve(config: FleetConfig) -> None:
    """Run all hosts until the process is told to end."""
    boot_id, virt = read_boot_id(), Virt("qemu", "guests are fake")
    shared = Shared(FakeDriver(config.state / "volumes"), ThreadPoolExecutor(1, thread_name_prefix="state"))
    stop = told_to_end()
    async with asyncio.TaskGroup() as tasks:
        work = [tasks.create_task(MetricsServer("kumo-fake-hosts", *agent_config.split_address(config.metrics)).run())]
        for host in config.hosts():
            one = config.agent(host)
            one.compute.consoles.mkdir(parents=True, exist_ok=True)
            agent = Agent(one, boot_id, virt, shared)
            agent.load()
            work.append(tasks.create_task(agent.run()))
            await asyncio.sleep(0)
        work.append(tasks.create_task(settle()))
        await stop.wait()
        for task in work:
            task.cancel()


def main(arguments: list[str] | None = None) -> int:
    return program.run("kumo-fake-hosts", sys.argv[1:] if arguments is None else arguments, FleetConfig, serve)


if __name__ == "__main__":
    sys.exit(main())
