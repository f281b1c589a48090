"""`make up`: from nothing, or from whatever an earlier run left, to a region that serves; and once more is a no-op that says so.

usage: python -m deploy.up [--state DIR] [--port-base N] [--host NAME] [--storage rbd|file] [--only base|host]
"""

import argparse
import contextlib
import os
import shlex
import sys
import time
from functools import partial
from pathlib import Path

from cli.failure import Failure
from deploy import base, control, etcd_binary, preflight, processes
from deploy.layout import DEFAULT_PORT_BASE, DEFAULT_STATE, Lab, Port, Storage, load, roles_with
from deploy.steps import Steps, fail

START_S = 60
GIVEN_UP_STARTS = 5
# How much is started: what Kumo stands on, also what goes on with every controller dead, everything.
STAGES = ("base", "host", "all")


def try_next(lab: Lab) -> str:
    """Return what to type next. A lab that is not where the command looks for one has to be named to it."""
    named = "" if lab.state == DEFAULT_STATE else f"export KUMO_CONFIG={shlex.quote(str(lab.cli / 'context.yaml'))}; "
    return f"Try: {named}.venv/bin/kumo server list, or .venv/bin/kumo server console hello (Ctrl-] leaves)"


def add_lab_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command on a lab takes; the environment's KUMO_STATE and KUMO_PORT_BASE are the defaults."""
    parser.add_argument("--state", type=Path, default=Path(os.environ.get("KUMO_STATE") or DEFAULT_STATE))
    parser.add_argument("--port-base", default=os.environ.get("KUMO_PORT_BASE") or "0")


def chosen_lab(arguments: argparse.Namespace) -> Lab:
    """Return the lab in the state directory, or a new one there. Ends the process, saying why, if the arguments contradict it."""
    state = arguments.state.absolute()
    if not arguments.port_base.isdecimal():
        fail("the port base cannot be used", f"{arguments.port_base!r} is not a number", f"KUMO_PORT_BASE={DEFAULT_PORT_BASE} make up")
        raise SystemExit(1)
    port_base = int(arguments.port_base)
    known = load(state)
    host, storage = getattr(arguments, "host", None), getattr(arguments, "storage", None)
    if known is None:
        chosen = Storage(storage or Storage.RBD)
        return Lab(state, port_base or DEFAULT_PORT_BASE, host or "h1", roles=roles_with(chosen), storage=chosen)
    if port_base not in (0, known.port_base) or host not in (None, known.host) or storage not in (None, known.storage):
        fail(
            "this lab is another one",
            f"{state} holds a lab with port base {known.port_base}, host {known.host} and storage {known.storage}; none of it can change",
            "leave KUMO_PORT_BASE and STORAGE out, or name another directory with KUMO_STATE, or `make purge` first",
        )
        raise SystemExit(1)
    return known


def _is_complete(lab: Lab, only: str) -> bool:
    """Whether the last start since the boot came to its end, and was of as much."""
    record = lab.run / "complete"
    return record.exists() and STAGES.index(record.read_text()) >= STAGES.index(only)


def up(lab: Lab, only: str) -> int:
    running = control.is_up(lab)
    if running and _is_complete(lab, only):
        print(f"already up: {lab.state}, ports from {lab.port_base}. {try_next(lab)}")
        return 0
    if not running and (problems := preflight.problems(lab)):
        for problem in problems:
            fail(problem.what, problem.because, problem.fix)
        return 1
    etcd = etcd_binary.find()
    if etcd is None:
        fail("there is no etcd server", "nothing of the region can be kept without one", "make setup")
        return 1
    with control.only_one(lab.state):
        steps = Steps()
        steps.say(f"{'going on with' if running else 'starting'} a region in {lab.state}, ports from {lab.port_base}")
        base.prepare(lab, steps, etcd)
        processes.prepare(lab, etcd)
        _start(lab, steps, only)
        (lab.run / "complete").write_text(only)
        steps.say(f"up in {steps.total_s:.1f} s. {try_next(lab) if only == 'all' else ''}".rstrip())
    return 0


def _start(lab: Lab, steps: Steps, only: str) -> None:
    """Boot the host unless it runs already, and bring up what is missing on it."""
    own = [] if only == "base" else [one for one in processes.services(lab) if only == "all" or one["name"] != processes.CONTROLLER]
    # A host that has run before boots as hosts do: all at once, and each waits for what it needs.
    control.write_services(lab, base.services(lab) + ([] if base.is_new(lab) else own))
    boot = not control.is_up(lab)
    if boot:
        (lab.run / "complete").unlink(missing_ok=True)
        (lab.run / "booted").write_text(str(int(time.time())))
        with steps.step(f"host {lab.host}"):
            base.boot(lab)
    base.wait_until_serving(lab, steps, booted=boot)
    control.write_services(lab, base.services(lab) + own)  # listed anew: a new cluster has its OSD by now
    control.ask(lab, "reload")
    names = [one["name"] for one in own]
    if names:
        with steps.step(", ".join(reversed(names))):
            for name in names:
                control.wait_for(name, partial(_answers, lab, name, processes.METRICS[name]), START_S)
    if only == "all":
        _say_hello(lab, steps)


def _say_hello(lab: Lab, steps: Steps) -> None:
    from deploy import hello

    with steps.step("region's API"), contextlib.closing(hello.open_session(lab)) as session:
        control.wait_for("the region's API", lambda: hello.serves(session), START_S)
    hello.run(lab, steps, int((lab.run / "booted").read_text()))


def _answers(lab: Lab, name: str, port: Port) -> bool:
    """Whether a process answers. Raises RuntimeError with its last words if it ends again and again."""
    if processes.is_alive(lab, port):
        return True
    found = next(one for one in control.ask(lab, "status")["services"] if one["name"] == name)
    if found["starts"] > GIVEN_UP_STARTS:
        said = (lab.log / f"{name}.log").read_text(errors="replace").splitlines()
        words = [line for line in said if not line.startswith("supervisor:")]
        raise RuntimeError(f"{name} ends again and again, the last time with: {words[-1] if words else 'no word'}")
    return False


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make up", description="Start a region on this machine.")
    add_lab_arguments(parser)
    parser.add_argument("--host", help="name of the one host (default h1)")
    parser.add_argument("--storage", choices=list(map(str, Storage)), help="what keeps volumes: Ceph's RBD (the default), or files")
    parser.add_argument("--only", choices=STAGES, default="all", help="base: etcd, Ceph and libvirt alone; host: no controller")
    arguments = parser.parse_args(argv)
    try:
        return up(chosen_lab(arguments), arguments.only)
    except Failure as failure:
        fail(failure.what, failure.because, failure.fix)
        return 1
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        fail("the region did not start", str(error), f"look at the logs in {arguments.state}/log, then `make up` again")
        return 1


if __name__ == "__main__":
    sys.exit(main())
