"""Hosts of a lab join, leave, reboot, lose power and are cut off; and a lab leaves nothing when it goes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import ceph, control
from deploy.layout import CHECKOUT
from tests.deploy.machine import snapshot
from tests.flows.cloud import until
from tests.flows.hosts import Hosts, running_hosts


@pytest.fixture(scope="module")
def small() -> Iterator[Hosts]:
    """A lab with one host, to which each test adds what it takes."""
    with running_hosts("--hosts", "1") as made:
        yield made


def up(lab: Hosts, host: str) -> None:
    until(lambda: lab.state_of("host", host) == "UP", f"{host} is UP", 60)


def test_a_lab_that_is_up_stays_as_it_is_and_is_drawn(small: Hosts) -> None:
    before = {name: control.init_pid(small.node(name)) for name in small.shape.nodes}
    said = small.lab("up")
    assert "already up" in said
    for name in small.shape.nodes:
        assert f"{name}   running" in said
    assert {name: control.init_pid(small.node(name)) for name in small.shape.nodes} == before


def test_what_contradicts_the_lab_is_refused(small: Hosts) -> None:
    for options in (["up", "--underlay", "ipv6"], ["up", "--hosts", "2"], ["cut", "h1", "tunnel"]):
        command = [sys.executable, "-m", "deploy.lab", "--state", str(small.state), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=CHECKOUT)
        assert done.returncode == 1 and "fix:" in done.stderr


def test_a_host_joins_takes_a_key_and_leaves_with_it(small: Hosts) -> None:
    small.add_host("h5")
    assert list(small.shape.hosts) == ["h1", "h5"]
    up(small, "h5")
    with small.ceph() as cluster:
        assert "client.agent-h5" in known_to_ceph(cluster)
    small.remove_host("h5")
    assert small.state_of("host", "h5") == "GONE"
    assert list(small.shape.hosts) == ["h1"] and not small.node("h5").state.exists()
    with small.ceph() as cluster:
        assert "client.agent-h5" not in known_to_ceph(cluster)
    assert "h5" not in small.exec("c1", "ip", "neigh")


def known_to_ceph(cluster: Any) -> set[str]:
    return {one["entity"] for one in ceph.command(cluster, "auth ls")["auth_dump"]}


def test_a_host_that_lost_power_is_down_and_comes_back_with_its_cables_as_they_are(small: Hosts) -> None:
    def carrier() -> str:
        return small.exec("h1", "cat", "/sys/class/net/management/carrier").strip()

    before = small.json("host", "show", "h1")["status"]["boot_id"]
    small.cut("h1")
    small.power_off("h1")
    assert "h1   off, cut off" in small.lab("status")
    small.boot("h1")
    assert carrier() == "0"
    small.power_off("h1")
    small.mend("h1")
    until(lambda: small.state_of("host", "h1") == "DOWN", "h1 is DOWN", 40)
    small.boot("h1")
    assert carrier() == "1"
    until(lambda: small.json("host", "show", "h1")["status"]["boot_id"] != before, "the region knows of the boot", 40)
    up(small, "h1")


def test_a_host_that_reboots_has_one_init_and_comes_back(small: Hosts) -> None:
    before = small.json("host", "show", "h1")["status"]["boot_id"]
    small.reboot("h1")
    init = control.init_pid(small.node("h1"))
    assert "runs already" in small.lab("boot", "h1")
    assert control.init_pid(small.node("h1")) == init
    until(lambda: small.json("host", "show", "h1")["status"]["boot_id"] != before, "the region knows of the boot", 40)
    up(small, "h1")


def test_a_host_that_is_cut_off_is_down_and_its_agent_lives(small: Hosts) -> None:
    agent = control.service_pids(small.node("h1"))["kumo-agent"]
    small.cut("h1")
    assert "running, cut off" in small.lab("status")
    until(lambda: small.state_of("host", "h1") == "DOWN", "h1 is DOWN", 40)
    small.mend("h1")
    up(small, "h1")
    assert control.service_pids(small.node("h1"))["kumo-agent"] == agent


def test_a_process_stands_still_until_it_is_told_to_go_on(small: Hosts) -> None:
    def state() -> str:
        pid = control.service_pids(small.node("h1"))["kumo-agent"]
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    small.freeze("h1", "kumo-agent")
    until(lambda: state() == "T", "the agent stands still", 5)
    small.thaw("h1", "kumo-agent")
    until(lambda: state() != "T", "the agent goes on", 5)


def test_what_is_missing_is_brought_up_again(small: Hosts) -> None:
    small.power_off("h1")
    small.stop("c2", "kumo-controller-cell")
    assert "without kumo-controller-cell" in small.lab("status")
    small.start("c2", "kumo-controller-cell")
    small.cut("c2")
    small.lab("up")
    up(small, "h1")
    drawn = small.lab("status")
    assert all(f"{name}   running  " in drawn for name in small.shape.nodes)


def test_a_lab_beside_another_goes_and_leaves_nothing_also_when_its_start_was_interrupted(small: Hosts) -> None:
    before = snapshot()
    parent = Path(tempfile.mkdtemp(prefix="kumo-lab-", dir="/tmp"))
    parent.chmod(0o755)
    state = parent / "lab"
    command = [sys.executable, "-m", "deploy.lab", "--state", str(state)]
    try:
        started = subprocess.Popen([*command, "up", "--hosts", "1"], cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: (state / "nodes" / "h1" / "run" / "supervisor.sock").exists(), "h1 boots", 60)
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        again = subprocess.run([*command, "up"], capture_output=True, text=True, timeout=300, check=False, cwd=CHECKOUT)
        assert again.returncode == 0, again.stdout + again.stderr
        beside = Hosts(state)
        assert beside.json("image", "show", "kt") and beside.state_of("host", "h1") == "UP"
        up(small, "h1")
    finally:
        done = subprocess.run([*command, "purge"], capture_output=True, text=True, timeout=120, check=False, cwd=CHECKOUT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not state.exists()
        shutil.rmtree(parent)
    after = snapshot()
    for part in before:
        assert after[part] == before[part], part
