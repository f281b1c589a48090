"""`make down` and `make purge`: stop a lab and keep its state, or stop it and leave nothing of it on the machine.

usage: python -m deploy.down [--state DIR] [--purge]
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import libvirt

from agent.network import rules
from deploy import control, libvirt_host
from deploy.control import wait_for
from deploy.layout import Lab, Port, Role
from deploy.steps import Steps, fail
from deploy.up import add_lab_arguments, chosen_lab

GUESTS_S = 10.0
KUMO_PROCESSES = ("kumo-controller", "kumo-controller-region", "kumo-controller-cell", "kumo-agent")


def _stop_guests(lab: Lab) -> None:
    """Press every guest's power button, as a host does that is shut down, and cut the power of those that do not end."""
    libvirt_host.quiet()
    try:
        connection = libvirt.open(lab.libvirt_uri)
    except libvirt.libvirtError:
        return  # libvirtd is not there to be asked: the guests end with the host
    try:
        for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            with contextlib.suppress(libvirt.libvirtError):
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        end = time.monotonic() + GUESTS_S
        while connection.numOfDomains() and time.monotonic() < end:
            time.sleep(0.1)
        for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
    finally:
        connection.close()


def stop(lab: Lab, steps: Steps) -> None:
    """Stop Kumo first, so that nobody starts again what is being stopped; then guests; then what they stand on."""
    names = {one["name"] for one in control.ask(lab, "status")["services"]}
    with steps.step("controller and agent"):
        stopping = [name for name in KUMO_PROCESSES if name in names]
        for name in stopping:
            control.ask(lab, "stop", name=name)
        wait_for("the controller and the agent", lambda: not _running(lab, stopping), 30)
    if Role.HOST in lab.roles:
        with steps.step("guests"):
            _stop_guests(lab)
    with steps.step("libvirt, Ceph, etcd" if Role.CEPH in lab.roles else "libvirt, etcd"):
        control.shut_down(lab)


def _running(lab: Lab, names: list[str]) -> bool:
    return any(one["pid"] for one in control.ask(lab, "status")["services"] if one["name"] in names)


def _drop_rules(lab: Lab) -> None:
    """Delete the one table of packet rules that the agent keeps outside the lab's own namespaces: a reboot would take it too."""
    table = ["inet", rules.tunnel_table(lab.port(Port.TUNNEL))]
    subprocess.run(["nft", "delete", "table", *table], capture_output=True, timeout=20, check=False)  # it may not be there


def remove(state: Path) -> None:
    """Remove a state directory, and what was made to mount it on."""
    record = state / "made-directories"
    made = record.read_text().splitlines() if record.exists() else []
    shutil.rmtree(state)
    for path in made:
        with contextlib.suppress(OSError):
            Path(path).rmdir()  # not empty: somebody else uses it by now


def down(lab: Lab, *, purge: bool) -> int:
    if not lab.state.exists():
        print(f"nothing there: {lab.state}")
        return 0
    if purge and not lab.description.exists() and any(lab.state.iterdir()):
        fail("nothing was removed", f"{lab.state} holds files but no lab", "name the right directory: KUMO_STATE=... make purge")
        return 1
    with control.only_one(lab.state):
        steps = Steps()
        if control.is_up(lab):
            steps.say(f"stopping the region in {lab.state}")
            stop(lab, steps)
        elif not purge:
            print(f"already down: {lab.state}")
            return 0
        _drop_rules(lab)
        if purge:
            with steps.step("state directory"):
                remove(lab.state)
        steps.say("purged: nothing of it is left" if purge else f"down; its state is kept in {lab.state}: `make up` brings it back")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make down", description="Stop a region.")
    add_lab_arguments(parser)
    parser.add_argument("--purge", action="store_true", help="and remove all of its state")
    arguments = parser.parse_args(argv)
    try:
        return down(chosen_lab(arguments), purge=arguments.purge)
    except (OSError, RuntimeError, TimeoutError, ValueError, control.Down) as error:
        fail("the region was not stopped", str(error), "run it again")
        return 1


if __name__ == "__main__":
    sys.exit(main())
