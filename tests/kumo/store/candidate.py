"""One candidate as a process of its own, for the tests of the election: while it leads it writes its term, fenced by it.

usage: candidate.py ADDRESS PREFIX NAME TTL_S
"""

import asyncio
import signal
import sys

from kumo.store.client import Etcd
from kumo.store.plane import Plane
from kumo.store.term import Term


async def main(address: str, prefix: str, name: str, ttl_s: int) -> None:
    async with Etcd([address]) as etcd:
        plane = await Plane.open(etcd, prefix, format_version=1)

        async def lead(term: Term) -> None:
            while True:
                txn = plane.txn(fence=term)
                txn.put("fenced", f"{term.create_revision} {name}".encode())
                await txn.commit()
                await asyncio.sleep(0.02)

        async with plane:
            running = asyncio.ensure_future(plane.election.run(name, lead, ttl_s=ttl_s))
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
            try:
                await running
            except asyncio.CancelledError:
                return


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
