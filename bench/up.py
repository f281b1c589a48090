"""How long `make up` takes with everything installed, from nothing until the guest itself reports ready.

Each run has a state directory of its own, which is purged; the clock runs over the whole command, as a user sees it.

usage: python -m bench.up [--json]
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.results import Row, hand_in
from deploy.layout import CHECKOUT
from deploy.trial import free_port_base

RUNS = 3
LIMIT_S = 600


def once() -> float:
    """Return the seconds that one start took, and leave nothing of it."""
    folder = Path(tempfile.mkdtemp(prefix="kumo-bench-up-", dir="/tmp"))
    folder.chmod(0o755)
    environment = os.environ | {"KUMO_STATE": str(folder / "state"), "KUMO_PORT_BASE": str(free_port_base())}

    def make(target: str) -> None:
        command = ["make", "--silent", "--no-print-directory", target]
        subprocess.run(command, cwd=CHECKOUT, env=environment, check=True, timeout=LIMIT_S, stdout=sys.stderr)

    try:
        began = time.monotonic()
        make("up")
        return time.monotonic() - began
    except subprocess.CalledProcessError:
        make("logs")  # they are gone in a moment
        raise
    finally:
        make("purge")
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    took = [once() for _ in range(RUNS)]
    hand_in([Row("up.ready_s", round(median(took), 2), "s", RUNS)])


if __name__ == "__main__":
    main()
