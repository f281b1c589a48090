"""The etcd in memory as a process with a real port, so that whatever is tested with a real member can be tested with it too.

usage: python -m tests.simulation.etcd_process PORT
"""

import asyncio
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tests.etcd import Cluster, Member, free_ports
from tests.simulation.etcd import Data, Service


class MemoryMember(Member):
    """A member that forgets everything when it ends."""

    def program(self) -> list[str]:
        return [sys.executable, "-m", "tests.simulation.etcd_process", str(self.port)]


@contextmanager
def memory_cluster() -> Generator[Cluster, None, None]:
    with tempfile.TemporaryDirectory(prefix="kumo-test-etcd-") as root:
        port, unused = free_ports(2)
        made = Cluster(Path(root), [MemoryMember("m0", (port, unused), Path(root) / "m0", ())])
        try:
            made.start()
            yield made
        finally:
            made.end()


async def serve(port: int) -> None:
    service = Service(Data(time.monotonic), random.Random(port))
    services: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, handler in service.handlers().items():
        _, name, method = path.split("/")
        services[name][method] = handler
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await service.run()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
