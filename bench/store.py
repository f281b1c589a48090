"""What it costs to reconcile: processor time an object from the start of a process until 2,000, and 10,000, objects have converged.

A process loads the mirror, has a loop of sixty-four workers look at each object, do for a millisecond what an agent would, and write
its status under a guard; one in a hundred fails the first time. It ends when all that etcd holds is as it should be. etcd's own time
is not counted; nor is that of importing modules.

usage: python -m bench.store [--json]
"""

import asyncio
import sys
import time

from bench.results import Row, hand_in
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.errors import Unavailable
from kumo.loop import Loop
from kumo.store.client import Etcd
from kumo.store.plane import Plane
from kumo.store.table import Table
from tests.etcd import cluster

COUNTS = (2_000, 10_000)
WORKERS = 64
CREATED_AT_ONCE = 100
AGENT_S = 0.001
ONE_FAILS_IN = 100
MOST_S = 120.0


async def make(store: str, count: int) -> None:
    """Create the objects."""
    async with Etcd([store]) as etcd, await _plane(etcd, count) as plane:
        volumes = plane.table(Volume)
        for first in range(0, count, CREATED_AT_ONCE):
            txn = plane.txn()
            for number in range(first, first + CREATED_AT_ONCE):
                spec = Volume.Spec(size_gib=10, image="projects/p/images/deb", pool="pools/main")
                txn.create(volumes, Volume(name=f"projects/p/volumes/v{number:05}", spec=spec))
            await txn.commit()


async def converge(store: str, count: int) -> None:
    """Reconcile all objects; the microseconds of processor time that each of them took go to stdout."""
    began = time.process_time()
    done: set[str] = set()
    finished = asyncio.Event()
    async with Etcd([store]) as etcd, await _plane(etcd, count) as plane:
        volumes = plane.table(Volume)
        failing = set(range(0, count, ONE_FAILS_IN))

        async def reconcile(uid: str) -> None:
            volume = await volumes.get_by_uid(uid)
            assert volume is not None
            if volume.status.observed_generation == volume.generation:
                done.add(uid)
                if len(done) == count:
                    finished.set()
                return
            await asyncio.sleep(AGENT_S)
            number = int(volume.name[-5:])
            if number in failing:
                failing.discard(number)
                raise Unavailable("INJECTED", "the agent did not answer")
            await _report(plane, volumes, volume)

        loop = Loop("bench", reconcile, workers=WORKERS)
        volumes.on_change(loop.add)
        async with asyncio.timeout(MOST_S), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(loop.run())
            await finished.wait()
            used_s = time.process_time() - began
            running.cancel()
    print(1_000_000 * used_s / count)


async def _report(plane: Plane, volumes: Table[Volume], volume: Volume) -> None:
    after = Volume()
    after.CopyFrom(volume)
    after.status.state, after.status.observed_generation = Volume.AVAILABLE, volume.generation
    txn = plane.txn()
    txn.write_status(volumes, volume.uid, after, expected=volume)
    await txn.commit()


async def _plane(etcd: Etcd, count: int) -> Plane:
    return await Plane.open(etcd, f"/bench/{count}", format_version=1)


async def measure(store: str, count: int) -> float:
    """Make the objects here, and have a fresh process converge them."""
    await make(store, count)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.store", "converge", store, str(count)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    said, _ = await process.communicate()
    return float(said)


def main() -> None:
    match sys.argv[1:]:
        case ["converge", store, count]:
            asyncio.run(converge(store, int(count)))
        case _:
            with cluster() as etcd:
                found = {count: asyncio.run(measure(etcd.addresses[0], count)) for count in COUNTS}
            rows = [Row(f"store.converge_{count}_us", round(cost), "us", count) for count, cost in found.items()]
            hand_in([Row("store.converge_us", round(max(found.values())), "us", len(found)), *rows])


if __name__ == "__main__":
    main()
