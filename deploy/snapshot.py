"""`make snapshot` and `make restore`: save what a region's store knows to a file, and go back to it.

Restoring stops the controllers and etcd, sets etcd's data aside, fills a new one and tells both planes that they went back in time,
before any controller starts again. Hosts and guests run on meanwhile. Who put etcd back by other means, such as etcdutl or a copy of
its disk, says so with `renew` before the controllers start.

usage: python -m deploy.snapshot save|restore FILE [--state DIR]
       python -m deploy.snapshot renew [--state DIR]
"""

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

from controller.config import cell_prefix, region_prefix
from deploy import control, etcd, processes
from deploy.control import wait_for
from deploy.files import make_directory
from deploy.layout import Lab, Port, User
from deploy.steps import Steps, fail
from deploy.up import add_lab_arguments, chosen_lab
from kumo.errors import Error
from kumo.store import incarnation, snapshot
from kumo.store.client import Etcd, Patience
from kumo.tls import TlsFiles

START_S = 60
PATIENT = Patience(per_try_s=10.0, request_s=30.0, unreachable_s=10.0)


def _store(lab: Lab) -> Etcd:
    """Connect as etcd's own user, who may see both planes."""
    tls = lab.etcd / "tls"
    return Etcd([lab.address(Port.ETCD_CLIENT)], TlsFiles(tls / "ca.crt", tls / "health.crt", tls / "health.key"), patience=PATIENT)


async def save(lab: Lab, path: Path) -> int:
    async with _store(lab) as store:
        await store.connect()
        return await snapshot.save(store, path)


async def _fill(lab: Lab, pairs: list[snapshot.Pair]) -> None:
    async with _store(lab) as store:
        await store.connect()
        await snapshot.restore(store, pairs)
    await renew(lab)


async def renew(lab: Lab) -> None:
    """Tell both planes that their store went back in time."""
    async with _store(lab) as store:
        await store.connect()
        for prefix in (region_prefix(lab.region), cell_prefix(lab.cell)):
            await incarnation.renew(store, prefix)


def restore(lab: Lab, path: Path, steps: Steps) -> None:
    """Go back to a snapshot. May be repeated after any interruption."""
    pairs = snapshot.read(path)
    with steps.step("stop controllers and etcd"):
        for name in (processes.CONTROLLER, "etcd"):
            control.ask(lab, "stop", name=name)
        wait_for("their end", lambda: not _runs(lab, processes.CONTROLLER, "etcd"), START_S)
    data, before = lab.etcd / "data", lab.etcd / "data.before-restore"
    aside = lab.etcd / "data.aside"
    if aside.exists():  # an earlier restore was interrupted: what it filled is no store
        shutil.rmtree(data, ignore_errors=True)
    else:
        data.rename(aside)
    make_directory(data, User.ETCD, 0o700)
    with steps.step(f"new etcd with {len(pairs)} keys"):
        control.ask(lab, "start", name="etcd")
        wait_for("etcd", lambda: etcd.is_healthy(lab), START_S)
        asyncio.run(_fill(lab, pairs))
    shutil.rmtree(before, ignore_errors=True)
    aside.rename(before)
    with steps.step("controllers"):
        control.ask(lab, "start", name=processes.CONTROLLER)
        wait_for("the controller", lambda: processes.is_alive(lab, Port.CONTROLLER_METRICS), START_S)


def _runs(lab: Lab, *names: str) -> bool:
    services: list[dict[str, object]] = control.ask(lab, "status")["services"]
    return any(one["pid"] for one in services if one["name"] in names)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make snapshot", description="Save a region's store, or go back to what was saved.")
    add_lab_arguments(parser)
    parser.add_argument("do", choices=("save", "restore", "renew"))
    parser.add_argument("file", type=Path, nargs="?")
    arguments = parser.parse_args(argv)
    if (arguments.file is None) != (arguments.do == "renew"):
        parser.error("save and restore take a FILE, renew takes none")
    lab, path, steps = chosen_lab(arguments), (arguments.file or Path()).absolute(), Steps()
    try:
        if arguments.do == "renew":
            asyncio.run(renew(lab))
            steps.say("both planes have a new incarnation; start the controllers")
            return 0
        if arguments.do == "save":
            steps.say(f"{asyncio.run(save(lab, path))} keys saved to {path}")
            return 0
        with control.only_one(lab.state):
            restore(lab, path, steps)
            steps.say(f"the region is what it was at {path}; etcd's data of before lie in {lab.etcd}/data.before-restore")
    except (Error, OSError, RuntimeError, TimeoutError, control.Down) as error:
        fail(
            f"nothing was {'saved' if arguments.do == 'save' else 'restored, or not all of it'}",
            str(error),
            f"do it again: {arguments.do} {path}",
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
