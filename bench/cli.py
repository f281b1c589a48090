"""How long a person waits for `kumo --help` and for `kumo server list` with 100 servers, from a cold start of the process.

The servers ask for more memory than there is, so that they exist and wait, and nothing else runs meanwhile.

usage: python -m bench.cli [--json]
"""

import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from statistics import median

from bench.lab import enter_sandbox, region
from bench.results import Row, hand_in
from cli.client import Client
from cli.contexts import load
from deploy.hello import IMAGE, NETWORK
from deploy.layout import CHECKOUT
from deploy.trial import Trial
from kumo.api.compute.v1.server_pb2 import CreateServerRequest, Server

SERVERS = 100
RUNS = 15


def fill(lab: Trial) -> None:
    """Create the servers."""
    lab.kumo("flavor", "create", "huge", "--vcpus", "1", "--memory", str(1 << 20), "--disk", "1")
    client = Client(load(lab.lab.cli / "context.yaml").known["local"])
    try:
        for number in range(SERVERS):
            request = CreateServerRequest(parent="projects/default", server_id=f"bench-{number}", request_id=str(uuid.uuid4()))
            request.server.spec.flavor, request.server.spec.image = "flavors/huge", f"projects/default/images/{IMAGE}"
            request.server.spec.nics.add(network=f"projects/default/networks/{NETWORK}")
            client.unary("kumo.api.compute.v1.Servers/CreateServer", request, Server, doing="create a server")
    finally:
        client.close()


def took_ms(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    enter_sandbox("bench.cli")
    with region() as lab:
        fill(lab)

        def command(*arguments: str) -> Callable[[], object]:
            whole = [sys.executable, "-m", "cli.main", *arguments]
            return lambda: subprocess.run(whole, check=True, stdout=subprocess.DEVNULL, cwd=CHECKOUT, env=lab.environment())

        python = [sys.executable, "-c", "pass"]
        figures = {"cli.help_ms": command("--help"), "cli.list_ms": command("server", "list")}
        rows = []
        for name, run in figures.items():
            run()
            pairs = [(took_ms(run), took_ms(lambda: subprocess.run(python, check=True))) for _ in range(RUNS)]
            value, baseline = (median(column) for column in zip(*pairs, strict=True))
            rows.append(Row(name, round(value, 1), "ms", RUNS, round(baseline, 1), round(value / baseline, 2)))
    hand_in(rows)


if __name__ == "__main__":
    main()
