"""What the controllers of a cell of 1,000 fake hosts with 5,000 servers take, how that grew, and how long a page of a list takes.

Hosts join and servers are created until there are 100 hosts with 500 servers, then 300 with 1,500, then 1,000 with 5,000. At each size
memory is read at rest, as the proportional set size: of the cell's controller, which holds a connection to each host, and of the
region's. A page is asked for by one client over TLS, on the largest size, and is what the client waits for its bytes.

usage: python -m bench.fake_hosts [--json]
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.farm import PAGE, Farm, farm
from bench.idle import pss_mib
from bench.lab import enter_sandbox
from bench.results import Row, hand_in
from kumo.api.fleet.v1 import host_pb2

SIZES = {100: 500, 300: 1_500, 1_000: 5_000}
REST_S = 10.0
PAGES = 21


async def grow(made: Farm, hosts: int, servers: int) -> tuple[float, float]:
    """Have so many hosts and servers; return the memory of the cell's controller, and of the region's that leads, in MiB."""
    present = await made.host_count()
    await made.add_hosts(made.fleet.config.hosts()[present:hosts])
    if not present:
        await made.furnish()
    await made.create_servers(await made.server_count(), servers)
    await made.until_active(servers, 1200.0)
    await asyncio.sleep(REST_S)
    cell, region = (pss_mib(pid) for pid in made.others[:2])
    print(f"{hosts} hosts, {servers} servers: cell {cell:.0f} MiB, region {region:.0f} MiB", file=sys.stderr)
    return cell, region


async def page_ms(made: Farm) -> float:
    """Return how long a client waits for the bytes of a page of a thousand hosts."""
    request = host_pb2.ListHostsRequest(page_size=PAGE).SerializeToString()
    ask: Any = made.api.channel.unary_unary(f"/{host_pb2.DESCRIPTOR.services_by_name['Hosts'].full_name}/ListHosts")
    assert len(host_pb2.ListHostsResponse.FromString(await ask(request)).hosts) == PAGE
    took = []
    for _ in range(PAGES):
        began = time.perf_counter()
        await ask(request)
        took.append(1000 * (time.perf_counter() - began))
    return median(took)


async def measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="kumo-farm-") as name:
        async with farm(Path(name), max(SIZES), apart=True) as made:
            found = {hosts: await grow(made, hosts, servers) for hosts, servers in SIZES.items()}
            page = await page_ms(made)
    growth = [Row(f"fake_hosts.pss_{hosts}_mib", round(cell, 1), "MiB", SIZES[hosts]) for hosts, (cell, _) in found.items()]
    cell, region = found[max(SIZES)]
    return [
        Row("fake_hosts.pss_mib", round(cell, 1), "MiB", max(SIZES)),
        *growth,
        Row("fake_hosts.region_pss_mib", round(region, 1), "MiB", max(SIZES.values())),
        Row("fake_hosts.list_page_ms", round(page, 2), "ms", PAGES),
    ]


def main() -> None:
    enter_sandbox("bench.fake_hosts")
    hand_in(asyncio.run(measure()))


if __name__ == "__main__":
    main()
