"""Brings up what Kumo stands on: certificates, etcd, Ceph, libvirt. Everything here may be run again after any interruption."""

import subprocess
import sys
from pathlib import Path

from deploy import ceph, control, etcd, libvirt_host, namespace, pki, program
from deploy.control import Service, wait_for
from deploy.etcd_binary import Etcd
from deploy.files import make_directory
from deploy.layout import CHECKOUT, Lab, Role, Storage
from deploy.steps import Steps

SERVING_S = 60
BRIDGE_SWITCHES = Path("/proc/sys/net/bridge")


def prepare(lab: Lab, steps: Steps, found: Etcd) -> None:
    """Make directories, certificates, configuration and empty stores. Starts nothing."""
    make_directories(lab)
    lab.save()
    load_modules()
    with steps.step("certificates"):
        pki.prepare(lab)

    def program_copy() -> None:
        program.refresh(lab)

    steps.side_by_side(("copy of the program", program_copy), ("configuration and empty stores", lambda: make_stores(lab, found)))
    make_targets(lab.state)


def make_directories(lab: Lab) -> None:
    """Make what a host needs to boot at all."""
    lab.state.mkdir(parents=True, exist_ok=True)
    for directory in (lab.state, lab.log, lab.run, *(lab.state / name for name in namespace.BINDS.values())):
        directory.parent.mkdir(exist_ok=True)
        make_directory(directory)


def make_stores(lab: Lab, found: Etcd) -> None:
    """Write what each of a host's roles stands on."""
    if Role.STORE in lab.roles:
        etcd.prepare(lab, found)
    if Role.HOST in lab.roles:
        libvirt_host.prepare(lab)
    if Role.CEPH in lab.roles:
        ceph.prepare(lab)
    if lab.storage is Storage.FILE:
        # QEMU's user passes through, and lists nothing.
        make_directory(lab.files, mode=0o711)


def make_targets(state: Path) -> None:
    """Make the directories that are mounted over inside a host, and remember in `state` those that were not there."""
    missing = namespace.missing_targets()
    record = state / "made-directories"
    known = record.read_text().splitlines() if record.exists() else []
    record.write_text("".join(f"{path}\n" for path in dict.fromkeys([*known, *map(str, missing)])))
    for path in missing:
        path.mkdir(parents=True)


def services(lab: Lab) -> list[Service]:
    found = [etcd.service(lab)] if Role.STORE in lab.roles else []
    found += libvirt_host.services(lab) if Role.HOST in lab.roles else []
    return found + (ceph.services(lab) if Role.CEPH in lab.roles else [])


def load_modules() -> None:
    """Have the kernel's modules loaded that nothing loads by itself. Raises RuntimeError that names the module.

    Elsewhere on the machine bridges go on as before: the module's switches are turned off where it was not loaded already.
    """
    if BRIDGE_SWITCHES.is_dir():
        return
    done = subprocess.run(["modprobe", "br_netfilter"], capture_output=True, text=True, timeout=60, check=False)
    if not BRIDGE_SWITCHES.is_dir():
        raise RuntimeError(f"the kernel module br_netfilter cannot be loaded: {done.stderr.strip() or 'it is not there'}")
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"):
        (BRIDGE_SWITCHES / name).write_text("0")


def boot(lab: Lab, *options: str) -> None:
    """Start the host's init with what the services file lists. Raises RuntimeError with what it could not do.

    A host has one init: a second one would take the first one's socket, and nobody could end the first.
    """
    if control.is_up(lab):
        raise RuntimeError(f"{lab.host} runs already, in {lab.state}")
    command = [sys.executable, "-m", "deploy.namespace", str(lab.state), str(lab.venv / "supervisor.py"), lab.host, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=CHECKOUT)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    wait_for("the supervisor", lambda: control.is_up(lab), 20)


def is_new(lab: Lab) -> bool:
    """Whether the lab's Ceph has never served, so that nobody has a key yet."""
    return Role.CEPH in lab.roles and not (lab.ceph / "osd-epoch").exists()


def wait_until_serving(lab: Lab, steps: Steps, *, booted: bool) -> None:
    """Wait for etcd, libvirt and Ceph side by side; make the OSD, pools and keys of a new cluster on the way.

    `booted` says that the host has just been started, so that what Ceph still believes of its OSD is of before.
    """
    libvirt_host.quiet()
    jobs = {
        Role.STORE: ("etcd", lambda: wait_for("etcd", lambda: etcd.is_healthy(lab), SERVING_S)),
        Role.HOST: ("libvirt", lambda: wait_for("libvirt", lambda: libvirt_host.is_healthy(lab), SERVING_S)),
        Role.CEPH: ("Ceph", lambda: _wait_for_ceph(lab, booted=booted)),
    }
    steps.side_by_side(*(job for role, job in jobs.items() if role in lab.roles))


def _wait_for_ceph(lab: Lab, *, booted: bool) -> None:
    new = not (lab.ceph / "osd" / "made").exists()
    with ceph.admin(lab) as cluster:
        before = ceph.epoch(cluster) if new else _epoch_before_start(lab) if booted else 0
        if new:
            ceph.make_osd(lab, cluster)
            control.write_services(lab, services(lab))
            control.ask(lab, "reload")
        ceph.wait_for_osd(cluster, before)
        ceph.make_pools(cluster)
        ceph.hand_out_keys(lab, cluster, lab)
        (lab.ceph / "osd-epoch").write_text(str(ceph.epoch(cluster)))


def _epoch_before_start(lab: Lab) -> int:
    """The OSD map's epoch when the lab last served: only a start of the OSD that is newer than this counts."""
    record = lab.ceph / "osd-epoch"
    return int(record.read_text()) if record.exists() else 0
