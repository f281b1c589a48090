"""`make up`: from nothing, or from whatever an earlier run left, to a region that serves; and once more is a no-op that says so.

usage: python -m deploy.up [--state DIR] [--port-base N] [--host NAME] [--only base]
"""

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy import base, control, preflight
from deploy.layout import DEFAULT_PORT_BASE, DEFAULT_STATE, Lab, load
from deploy.steps import Steps, fail


def add_lab_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command on a lab takes; the environment's KUMO_STATE and KUMO_PORT_BASE are the defaults."""
    parser.add_argument("--state", type=Path, default=Path(os.environ.get("KUMO_STATE") or DEFAULT_STATE))
    parser.add_argument("--port-base", type=int, default=int(os.environ.get("KUMO_PORT_BASE") or 0))


def chosen_lab(arguments: argparse.Namespace) -> Lab:
    """Return the lab in the state directory, or a new one there. Raises ValueError if the arguments contradict it."""
    state = arguments.state.absolute()
    known = load(state)
    host = getattr(arguments, "host", None)
    if known is None:
        return Lab(state, arguments.port_base or DEFAULT_PORT_BASE, host or "h1")
    if arguments.port_base not in (0, known.port_base) or host not in (None, known.host):
        raise ValueError(f"{state} holds a lab with port base {known.port_base} and host {known.host}; neither can change")
    return known


@contextmanager
def only_one(lab: Lab) -> Iterator[None]:
    """Hold the lab's lock: two starts, or a start and a stop, of one lab do not mix. Raises RuntimeError if it is taken."""
    lab.state.mkdir(parents=True, exist_ok=True)
    lock = os.open(lab.state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError("another `make up`, `down` or `purge` works on this lab") from None
        yield
    finally:
        os.close(lock)


def up(lab: Lab, only: str) -> int:
    if control.is_up(lab):
        print(f"already up: {lab.state}, ports from {lab.port_base}")
        return 0
    if problems := preflight.problems(lab):
        for problem in problems:
            fail(problem.what, problem.because, problem.fix)
        return 1
    with only_one(lab):
        steps = Steps()
        steps.say(f"starting a region in {lab.state}, ports from {lab.port_base}")
        base.prepare(lab, steps)
        control.write_services(lab, base.services(lab))
        with steps.step("host h1"):
            base.boot(lab)
        base.wait_until_serving(lab, steps, [])
        steps.say(f"up in {steps.total_s:.1f} s")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make up", description="Start a region on this machine.")
    add_lab_arguments(parser)
    parser.add_argument("--host", help="name of the one host (default h1)")
    parser.add_argument("--only", choices=["all", "base"], default="all", help="base: etcd, Ceph and libvirt alone")
    arguments = parser.parse_args(argv)
    try:
        return up(chosen_lab(arguments), arguments.only)
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        fail("the region did not start", str(error), f"look at the logs in {arguments.state}/log, then `make up` again")
        return 1


if __name__ == "__main__":
    sys.exit(main())
