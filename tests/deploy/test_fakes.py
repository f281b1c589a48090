"""A region of fake hosts for whoever is not root: it comes, survives, grows, and leaves nothing."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy import control, etcd_binary, program
from deploy.control import wait_for
from deploy.layout import CHECKOUT, Lab
from deploy.trial import free_port_base

# A group of another number: whoever is not root can give nothing to others.
USER, GROUP = 64190, 64191
PROCESSES = ("etcd", "kumo-controller", "kumo-fake-hosts")


@dataclass(frozen=True)
class Ground:
    """A copy of Kumo that anybody may read, and a home for somebody who is nobody."""

    folder: Path
    lab: Lab

    def run(self, *words: str, module: str = "deploy.fakes") -> str:
        """Run a module as that user; return what it prints."""
        base = [] if module != "deploy.fakes" else ["--state", str(self.lab.state)]
        command = [
            "setpriv",
            f"--reuid={USER}",
            f"--regid={GROUP}",
            "--clear-groups",
            "--no-new-privs",
            "--",
            str(self.lab.python),
            "-m",
            module,
        ]
        environment = {
            "HOME": str(self.folder / "home"),
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "KUMO_CONFIG": str(self.lab.cli / "context.yaml"),
        }
        done = subprocess.run([*command, *base, *words], capture_output=True, text=True, timeout=200, check=False, cwd="/", env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kumo(self, *words: str) -> str:
        return self.run(*words, module="cli.main")

    def processes(self) -> set[int]:
        return {int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit() and _user_of(one) == USER}


def _user_of(process: Path) -> int:
    try:
        return process.stat().st_uid
    except FileNotFoundError:
        return -1


@pytest.fixture
def ground() -> Iterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="kumo-fakes-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        home, programs = folder / "home", folder / "bin"
        for path in (home, programs):
            path.mkdir()
        os.chown(home, USER, GROUP)
        shutil.copy(etcd_binary.locate(), programs / "etcd")
        lab = Lab(home / "state", common=folder)
        program.refresh(lab)
        shutil.copytree(CHECKOUT / "deploy", program.site_packages(lab.venv) / "deploy")
        made = Ground(folder, lab)
        try:
            yield made
        finally:
            with contextlib.suppress(AssertionError):
                made.run("purge")
            for pid in made.processes():
                os.kill(pid, signal.SIGKILL)
    finally:
        shutil.rmtree(folder)


def test_a_region_of_fake_hosts_needs_no_root_grows_survives_and_leaves_nothing(ground: Ground) -> None:
    said = ground.run("--port-base", str(free_port_base()), "up", "--hosts", "5")
    assert "5 hosts are UP" in said
    assert len(ground.processes()) == len(PROCESSES) + 1
    assert {one["name"] for one in control.ask(ground.lab, "status")["services"]} == set(PROCESSES)
    assert "hello" in ground.kumo("server", "list")
    disk = ground.folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    ground.kumo("image", "create", "deb", "--file", str(disk), "--format", "qcow2", "--wait", "--timeout", "30")

    os.kill(control.init_pid(ground.lab), signal.SIGKILL)
    wait_for("whatever the supervisor ran has ended with it", lambda: not ground.processes(), 30)

    said = ground.run("up", "--hosts", "12")
    assert "12 hosts are UP" in said and "server hello" not in said
    assert ground.kumo("server", "show", "hello", "-o", "json").count('"ACTIVE"') == 1
    assert len(ground.kumo("host", "list", "--no-headers").splitlines()) == 12

    assert ground.run("purge").startswith("purged")
    assert not ground.processes() and not ground.lab.state.exists()
    assert ground.run("purge").startswith("nothing there")
