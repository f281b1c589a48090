"""A lab's life on a machine with foreign things beside it: it comes, survives, and leaves nothing."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import rados

from deploy import ceph, control, etcd, libvirt_host
from deploy.control import wait_for
from deploy.layout import CHECKOUT, PORT_COUNT, Lab, Port, load
from deploy.trial import free_port_base
from tests.deploy.machine import snapshot


def run(module: str, lab: Lab, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, "--state", str(lab.state), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=CHECKOUT)


def up(lab: Lab) -> str:
    done = run("deploy.up", lab, "--only", "base", "--port-base", str(lab.port_base))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def a_lab() -> Iterator[Lab]:
    """A lab that is not up yet, and purged in the end."""
    parent = Path(tempfile.mkdtemp(prefix="kumo-life-", dir="/tmp"))
    parent.chmod(0o755)  # pytest's own directories are root's alone, and a lab's processes are not root's
    made = Lab(parent / "state", free_port_base())
    try:
        yield made
    finally:
        done = run("deploy.down", made, "--purge")
        shutil.rmtree(parent, ignore_errors=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as made:
        yield made


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """A lab that is up, for tests that only look."""
    with a_lab() as made:
        up(made)
        yield made


@pytest.fixture
def foreign_things() -> Iterator[None]:
    """What others may have on the machine: a bridge, packet rules, a network namespace with a process in it."""
    make = (
        "ip link add virbr0 type bridge",
        "nft add table inet filter",
        "nft add chain inet filter forward { type filter hook forward priority 0 ; policy drop ; }",
        "ip netns add foreign",
    )
    for command in make:
        subprocess.run(command.split(), check=True, timeout=20)
    process = subprocess.Popen(["ip", "netns", "exec", "foreign", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"?")
    process.stdout.read(1)  # now it is `cat` in the namespace
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
        for command in ("ip netns del foreign", "nft delete table inet filter", "ip link del virbr0"):
            subprocess.run(command.split(), check=True, timeout=20)


def test_purge_of_a_region_with_a_server_leaves_nothing_and_touches_nothing_of_others(lab: Lab, foreign_things: None) -> None:
    before = snapshot()
    started = run("deploy.up", lab, "--port-base", str(lab.port_base))
    assert started.returncode == 0, started.stdout + started.stderr
    assert run("deploy.down", lab, "--purge").returncode == 0
    after = snapshot()
    for subject, value in before.items():
        assert after[subject] == value, subject
    assert not lab.state.exists()


def test_purge_after_a_power_failure_leaves_nothing(lab: Lab) -> None:
    before = snapshot()
    up(lab)
    rules = f"add table inet kumo_{lab.port(Port.TUNNEL)}"  # what an agent keeps outside the lab's own namespaces
    subprocess.run(["nft", *rules.split()], check=True, timeout=20)
    os.kill(control.init_pid(lab), signal.SIGKILL)
    wait_for("the end", lambda: not control.is_up(lab), 20)
    assert run("deploy.down", lab, "--purge").returncode == 0
    wait_for("the last process", lambda: snapshot()["processes"] == before["processes"], 20)
    after = snapshot()
    for subject, value in before.items():
        assert after[subject] == value, subject


def test_up_again_says_so_and_changes_nothing(running: Lab) -> None:
    before = control.processes(running)
    again = up(running)
    assert again.startswith("already up")
    assert control.processes(running) == before


def test_a_start_that_was_interrupted_goes_on(lab: Lab) -> None:
    up(lab)
    (lab.run / "complete").unlink()
    control.ask(lab, "stop", name="etcd")
    control.ask(lab, "start", name="etcd")
    assert up(lab).startswith("going on")
    assert up(lab).startswith("already up")


def test_two_labs_beside_each_other_know_nothing_of_one_another(running: Lab, lab: Lab) -> None:
    up(lab)
    with ceph.admin(lab) as cluster, cluster.open_ioctx("volumes") as io:
        io.write_full("of the second", b"")
    with ceph.admin(running) as cluster, cluster.open_ioctx("volumes") as io:
        assert "of the second" not in [found.key for found in io.list_objects()]
    assert not set(control.processes(running).values()) & set(control.processes(lab).values())
    assert run("deploy.down", lab, "--purge").returncode == 0
    assert etcd.is_healthy(running)
    assert libvirt_host.is_healthy(running)


def test_what_was_stored_is_there_after_down_and_after_a_power_failure(lab: Lab) -> None:
    up(lab)
    with ceph.admin(lab) as cluster, cluster.open_ioctx("volumes") as io:
        io.write_full("kept", b"first")
    assert run("deploy.down", lab).returncode == 0
    assert not control.is_up(lab)
    up(lab)
    with ceph.admin(lab) as cluster, cluster.open_ioctx("volumes") as io:
        assert io.read("kept") == b"first"
        io.write_full("kept", b"second")
    os.kill(control.init_pid(lab), signal.SIGKILL)
    wait_for("the end", lambda: not control.is_up(lab), 20)
    up(lab)
    with ceph.admin(lab) as cluster, cluster.open_ioctx("volumes") as io:
        assert io.read("kept") == b"second"
    assert etcd.is_healthy(lab)
    assert libvirt_host.is_healthy(lab)


def test_every_process_runs_as_a_user_of_its_own(running: Lab) -> None:
    users = {name: Path(f"/proc/{pid}").stat().st_uid for name, pid in control.service_pids(running).items()}
    assert users == {"etcd": 64101, "ceph-mon": 64102, "ceph-mgr": 64102, "ceph-osd": 64102, "virtlogd": 0, "libvirtd": 0}
    for name in ("etcd", "ceph-mon", "ceph-mgr", "ceph-osd"):
        text = Path(f"/proc/{control.service_pids(running)[name]}/status").read_text()
        assert "CapEff:\t0000000000000000" in text, name


def test_keys_are_readable_by_their_process_alone(running: Lab) -> None:
    keys = [path for pattern in ("**/*.key", "**/keyring", "**/*.keyring") for path in running.state.glob(pattern)]
    assert len(keys) > 10
    for path in keys:
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_host_key_of_the_agent_cannot_blocklist_or_read_other_pools(running: Lab) -> None:
    conf = {"rados_osd_op_timeout": "10"}
    agent = rados.Rados(conffile=str(running.agent / "ceph" / "ceph.conf"), name=f"client.agent-{running.host}", conf=conf)
    agent.connect()
    try:
        with agent.open_ioctx("volumes") as io:
            io.write_full("mine", b"")
        code, _, _ = agent.mon_command('{"prefix": "osd blocklist", "blocklistop": "add", "addr": "127.0.0.1:0/1"}', b"")
        assert code == -13
    finally:
        agent.shutdown()


def test_a_busy_port_is_named_with_its_holder_and_nothing_is_made(lab: Lab) -> None:
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {lab.port_base + 10})); print('on', flush=True); time.sleep(1000)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        done = run("deploy.up", lab, "--only", "base", "--port-base", str(lab.port_base))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert done.returncode == 1
    assert f"port {lab.port_base + 10} is busy" in done.stderr
    assert f"(pid {holder.pid})" in done.stderr
    assert "fix:" in done.stderr
    assert not lab.state.exists()


def test_the_port_base_of_a_lab_cannot_change(running: Lab) -> None:
    done = run("deploy.up", running, "--only", "base", "--port-base", str(running.port_base + PORT_COUNT))
    assert done.returncode == 1
    assert "none of it can change" in done.stderr
    assert load(running.state) == running
