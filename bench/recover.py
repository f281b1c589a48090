"""How long nobody leads a plane: from `kill -9`, and from SIGTERM, of its leader until its successor's first commit. Worst of ten.

Two controllers of each plane run as processes, with a lease of four seconds, and are killed in turn. In the region the successor's
commit is that it places a server that was created at the moment of the kill; in the cell, that it changes a host when asked, which
is asked of both controllers every few milliseconds.

usage: python -m bench.recover [--json]
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from google.protobuf.field_mask_pb2 import FieldMask

from bench.lab import enter_sandbox
from bench.results import Row, hand_in
from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.fleet.v1 import host_pb2
from kumo.errors import Error
from kumo.rpc.client import channel
from kumo.store import ops
from tests.controller.planes.processes import CELL, Controller, Planes, planes
from tests.controller.planes.work import furnish

KILLS = 10
LEASE_S = 4
ASKED_EVERY_S = 0.01
MOST_S = 60.0


async def takeover_of_region(cloud: Planes, name: str, how: signal.Signals) -> float:
    """End the region's leader and return the seconds until its successor places a server."""
    leader, follower = await cloud.leader("region"), await cloud.follower("region")
    prefix = cloud.key("region", "record/server/")
    async with cloud.etcd.watch(prefix, ops.prefix_end(prefix), await cloud.revision() + 1) as watch:
        began = kill(leader, how)
        await cloud.apis[follower.host].create_server(name)
        async with asyncio.timeout(MOST_S):
            async for batch in watch:
                if any(event.kv.key.endswith(b"/placement") for event in batch.events):
                    break
    took = time.monotonic() - began
    await again(leader, how)
    return took


async def takeover_of_cell(cloud: Planes, name: str, how: signal.Signals) -> float:
    """End the cell's leader and return the seconds until its successor changes a host."""
    leader, follower = await cloud.leader("cell"), await cloud.follower("cell")
    async with asking(cloud, follower) as ask:
        began = kill(leader, how)
        async with asyncio.timeout(MOST_S):
            while not await ask(name):  # noqa: ASYNC110  # what is waited for is in another process
                await asyncio.sleep(ASKED_EVERY_S)
        took = time.monotonic() - began
    await again(leader, how)
    return took


@asynccontextmanager
async def asking(cloud: Planes, controller: Controller) -> AsyncIterator["Ask"]:
    credentials = cloud.pki.credentials("region", "controller", controller.host)
    name = cloud.pki.identity(CELL, "controller", controller.host).dns
    async with channel(controller.own.address, credentials, server_name=name) as dialled:
        await dialled.channel_ready()
        yield Ask(cell_pb2_grpc.HostsStub(dialled))


class Ask:
    """Changes a host's labels by way of one controller of the cell; True if that was done."""

    def __init__(self, hosts: "cell_pb2_grpc.HostsAsyncStub") -> None:
        self._hosts = hosts

    async def __call__(self, name: str) -> bool:
        host = host_pb2.Host(name="hosts/h1", labels={"kill": name})
        request = host_pb2.UpdateHostRequest(host=host, update_mask=FieldMask(paths=["labels"]))
        try:
            await self._hosts.UpdateHost(cell_pb2.UpdateHostRequest(request=request), timeout=1.0)
        except Error:
            return False
        return True


def kill(leader: Controller, how: signal.Signals) -> float:
    assert leader.process is not None
    leader.process.send_signal(how)
    return time.monotonic()


async def again(ended: Controller, how: signal.Signals) -> None:
    """Start a controller that was ended again, and have it follow."""
    await ended.end(how)
    await ended.start()
    await ended.until_listening()
    await asyncio.sleep(0.5)


async def measure() -> list[Row]:
    worst: dict[signal.Signals, list[float]] = {signal.SIGKILL: [], signal.SIGTERM: []}
    with tempfile.TemporaryDirectory() as folder:
        async with planes(Path(folder), lease_s=LEASE_S) as cloud, cloud.agent("h1"):
            await furnish(cloud.apis["c1"], cloud.apis["c2"], {"h1": cloud.to_agents["h1"].address})
            for how, found in worst.items():
                for number in range(KILLS):
                    name = f"{how.name.lower()}-{number}"
                    took = [await takeover_of_region(cloud, name, how), await takeover_of_cell(cloud, name, how)]
                    print(f"{name}: region {took[0]:.3f} s, cell {took[1]:.3f} s", file=sys.stderr)
                    found += took
    return [
        Row("recover.takeover_s", round(max(worst[signal.SIGKILL]), 2), "s", len(worst[signal.SIGKILL])),
        Row("recover.handover_ms", round(1000 * max(worst[signal.SIGTERM]), 1), "ms", len(worst[signal.SIGTERM])),
    ]


def main() -> None:
    enter_sandbox("bench.recover")
    hand_in(asyncio.run(measure()))


if __name__ == "__main__":
    main()
