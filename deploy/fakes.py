"""`make fakes`: a region whose hosts are fakes, a thousand of them if wanted, for whoever is not root.

etcd, one controller of both planes and one process with all the agents run as whoever starts them, below a supervisor that ends them
with it. Guests, packets and disks are pretended; all above the agents' drivers is what runs anywhere. Nothing lies outside of the state
directory but listeners on loopback addresses.

usage: python -m deploy.fakes [--state DIR] [--port-base N] up [--hosts N] | down | purge
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from agent.fleet import FleetConfig
from cli.failure import Failure
from cli.nouns import NOUNS
from cli.read import listed
from cli.session import Session
from cli.wait import follow
from deploy import control, etcd, etcd_binary, hello, pki, processes
from deploy.control import Service, wait_for
from deploy.etcd_binary import Etcd
from deploy.files import make_directory, write
from deploy.layout import CHECKOUT, Lab, Port, Role
from deploy.steps import Steps, fail
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image

PORT_BASE = 7500
HOSTS = 100
# Their addresses are in 127.1.0.0/16.
MOST_HOSTS = 10_000
IMAGE_BYTES = 1 << 20
START_S = 60.0
EACH_HOST_S = 0.2
PROGRESS_HOSTS = 200
FLEET = "kumo-fake-hosts"


def default_state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "kumo-fakes"


def fleet_of(lab: Lab, count: int) -> FleetConfig:
    place = lab.state / "hosts"
    return FleetConfig(
        region=lab.region,
        cell=lab.cell,
        count=count,
        tls=place / "tls",
        state=place / "state",
        port=lab.port(Port.AGENT),
        metrics=lab.address(Port.AGENT_METRICS),
    )


def services(lab: Lab) -> list[Service]:
    """In the order of their start; the last is stopped first."""
    programs = {processes.CONTROLLER: ("controller.main", lab.controller), FLEET: ("agent.fleet", lab.state / "hosts")}
    argvs = {"etcd": etcd.service(lab)["argv"]}
    argvs |= {name: [sys.executable, "-m", module, "--config", str(at / "config.toml")] for name, (module, at) in programs.items()}
    common = {"uid": os.getuid(), "as_is": True, "cwd": str(CHECKOUT), "nofile": 65536, "env": {"MALLOC_ARENA_MAX": "1"}}
    return [cast(Service, {"name": name, "argv": argv, **common}) for name, argv in argvs.items()]


def up(lab: Lab, count: int, found: Etcd) -> None:
    """Bring up what is down, and wait until all hosts are UP and a server runs on one of them."""
    fleet = fleet_of(lab, count)
    steps = Steps()
    steps.say(f"starting a region of {count} fake hosts in {lab.state}, ports from {lab.port_base}")
    with steps.step("certificates and configuration"):
        _prepare(lab, fleet, found)
    with steps.step(f"etcd, controller, {count} agents"):
        _start(lab)
    with contextlib.closing(hello.open_session(lab)) as session:
        with steps.step("region's API"):
            wait_for("the region's API", lambda: hello.serves(session), START_S)
        with steps.step(f"{count} hosts are UP"):
            hello.register(session, Pool.Spec(driver=Pool.FAKE, default=True), {})
            for number, (name, spec) in enumerate(_hosts(lab, fleet).items()):
                if number and not number % PROGRESS_HOSTS:
                    steps.say(f"    {number} of {count} have joined")
                hello.add_host(session, name, spec)
            wait_for("the hosts", lambda: _are_up(session, count), START_S + EACH_HOST_S * count, pause_s=0.3)
        if not (lab.state / "hello-was-made").exists():
            with steps.step(f"image {hello.IMAGE}, network {hello.NETWORK}, server {hello.SERVER}"):
                _say_hello(lab, session)
    steps.say(f"up in {steps.total_s:.1f} s. Try: export KUMO_CONFIG={lab.cli / 'context.yaml'}; .venv/bin/kumo host list")


def _prepare(lab: Lab, fleet: FleetConfig, found: Etcd) -> None:
    for directory in (lab.log, lab.run, fleet.tls.parent, fleet.state):
        make_directory(directory, mode=0o700)
    write(_record(lab), json.dumps({"port_base": lab.port_base, "hosts": fleet.count}) + "\n")
    pki.prepare(lab)
    pki.prepare_hosts(lab, fleet.tls, fleet.hosts())
    etcd.prepare(lab, found)
    processes.prepare_controller(lab, found)
    processes.write_context(lab)
    own: dict[str, object] = {name: value if isinstance(value, int) else str(value) for name, value in asdict(fleet).items()}
    write(lab.state / "hosts" / "config.toml", processes.toml({"": own}))
    write(lab.state / "image.raw", bytes(IMAGE_BYTES))


def _start(lab: Lab) -> None:
    control.write_services(lab, services(lab))
    if control.is_up(lab):
        control.ask(lab, "reload")
        return
    with (lab.log / "supervisor.log").open("ab") as log:
        command = [sys.executable, "-I", str(CHECKOUT / "deploy" / "supervisor.py"), str(lab.services)]
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    wait_for("the supervisor", lambda: control.is_up(lab) or started.poll() is not None, START_S)
    if started.poll() is not None:
        raise RuntimeError(f"the supervisor ended with {started.returncode}: see {lab.log / 'supervisor.log'}")


def _hosts(lab: Lab, fleet: FleetConfig) -> dict[str, Host.Spec]:
    found = {}
    for name in fleet.hosts():
        address = fleet.address(name)
        alone = address.rpartition(":")[0]
        found[name] = Host.Spec(cell=lab.cell, agent_address=address, tunnel_address=alone, storage_address=alone, migration_address=alone)
    return found


def _are_up(session: Session, count: int) -> bool:
    hosts, _ = listed(session, NOUNS["host"], "")
    return len([one for one in hosts if one.status.state == Host.UP]) >= count


def _say_hello(lab: Lab, session: Session) -> None:
    hello.bring_image(session, lab.state / "image.raw", Image.RAW)
    hello.make_network(session)
    hello.start_server(session)
    follow(session, NOUNS["server"], session.full_name(NOUNS["server"], hello.SERVER), "settled", START_S)
    (lab.state / "hello-was-made").touch()


def _record(lab: Lab) -> Path:
    return lab.state / "fakes.json"


def _lab(state: Path, port_base: int) -> tuple[Lab, int]:
    """Return the lab in `state` and how many hosts it has; none if it is a new one."""
    found = Lab(state, port_base or PORT_BASE, "c1", roles=frozenset({Role.STORE, Role.CONTROLLER}))
    if not _record(found).exists():
        return found, 0
    known = json.loads(_record(found).read_text())
    if port_base not in (0, known["port_base"]):
        raise ValueError(f"the ports of this region begin at {known['port_base']}: purge it first, or leave --port-base out")
    return replace(found, port_base=known["port_base"]), known["hosts"]


def _end(lab: Lab, *, purge: bool) -> int:
    if not _record(lab).exists():
        print(f"nothing there: {lab.state}")
        return 0
    with control.only_one(lab.state):
        if control.is_up(lab):
            control.shut_down(lab)
        if purge:
            shutil.rmtree(lab.state)
    print("purged: nothing of it is left" if purge else f"down; its state is kept in {lab.state}: `make fakes` brings it back")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    lab, known = _lab(arguments.state.absolute(), arguments.port_base)
    if arguments.command != "up":
        return _end(lab, purge=arguments.command == "purge")
    found = etcd_binary.find()
    if found is None:
        fail("there is no etcd server", "nothing of the region can be kept without one", "make fakes")
        return 1
    count = arguments.hosts or known or HOSTS
    if not known <= count <= MOST_HOSTS:
        raise ValueError(f"--hosts {count}: this region has {known}, and can have up to {MOST_HOSTS}")
    lab.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with control.only_one(lab.state):
        up(lab, count, found)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.fakes", description="A region of fake hosts, without root.")
    parser.add_argument("--state", type=Path, default=Path(os.environ.get("KUMO_FAKES") or default_state()))
    parser.add_argument("--port-base", type=int, default=0)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring it up, or add hosts to it").add_argument("--hosts", type=int, default=0)
    commands.add_parser("down", help="stop it and keep its state")
    commands.add_parser("purge", help="stop it and leave nothing")
    arguments = parser.parse_args()
    try:
        return _run(arguments)
    except Failure as failure:
        fail(failure.what, failure.because, failure.fix)
    except (OSError, RuntimeError, TimeoutError, ValueError, control.Down) as error:
        fail("the region of fake hosts did not do that", str(error), f"look at the logs in {arguments.state}/log")
    return 1


if __name__ == "__main__":
    sys.exit(main())
