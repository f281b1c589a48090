"""A lab for the benchmarks that need a whole region, in namespaces that end with the benchmark however it ends."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.trial import Trial, trial

_INSIDE = "KUMO_BENCH_SANDBOX"


def enter_sandbox(module: str) -> None:
    """Begin anew inside deploy.sandbox, unless this is inside already: nothing of the benchmark can outlive it there."""
    if _INSIDE not in os.environ:
        environment = os.environ | {_INSIDE: "1"}
        os.execve(sys.executable, [sys.executable, "-m", "deploy.sandbox", sys.executable, "-m", module, *sys.argv[1:]], environment)


@contextmanager
def region() -> Iterator[Trial]:
    """A region with the server `hello` in it."""
    with trial() as made:
        yield made
