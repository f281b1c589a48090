"""Fake hosts of a test's own: many agents in one process, which can be killed and started again."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from agent.fleet import FleetConfig
from kumo.tls import TlsFiles
from tests.agent.process import CHECKOUT, free_port
from tests.pki import Pki


@dataclass
class Fleet:
    """The hosts' files outlive their process."""

    folder: Path
    config: FleetConfig
    process: asyncio.subprocess.Process | None = None

    @property
    def addresses(self) -> dict[str, str]:
        return {host: self.config.address(host) for host in self.config.hosts()}

    async def start(self) -> None:
        path = self.folder / "fleet.toml"
        lines = (f"{key} = {value if isinstance(value, int) else repr(str(value))}" for key, value in asdict(self.config).items())
        path.write_text("\n".join(lines) + "\n")
        with (self.folder / "fleet.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "agent.fleet", "--config", str(path)),
                cwd=CHECKOUT,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
            )

    async def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the process and return how it ended."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(30):
            return await self.process.wait()

    def log(self) -> str:
        return (self.folder / "fleet.log").read_text()


@asynccontextmanager
async def running_fleet(folder: Path, pki: Pki, count: int, *, vcpus: int = 16, memory_mib: int = 32_768) -> AsyncIterator[Fleet]:
    """Run `count` hosts of cell a below `folder`."""
    config = FleetConfig(
        region=pki.region,
        cell="a",
        count=count,
        tls=folder / "tls",
        state=folder / "state",
        port=free_port(),
        metrics="127.0.0.1:0",
        vcpus=vcpus,
        memory_mib=memory_mib,
    )
    for host in config.hosts():
        pem = pki.pem(pki.identity("a", "agent", host), lifetime=timedelta(days=1))
        TlsFiles.in_folder(config.tls / host, "cell").write(pki.root.cert_pem, pem)
    fleet = Fleet(folder, config)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.end()
