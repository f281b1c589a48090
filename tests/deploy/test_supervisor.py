"""The supervisor as the init of a PID namespace, with services that are lines of shell."""

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import control
from deploy.control import Service, wait_for
from deploy.layout import CHECKOUT, Lab

NOBODY = 65534


class Host:
    """A supervisor of one's own in a directory, and what it was told to run."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.process: subprocess.Popen[bytes] | None = None

    def services(self, *scripts: tuple[str, str], **more: Any) -> None:
        listed: list[Service] = [{"name": name, "argv": ["sh", "-c", text], "uid": 0, **more} for name, text in scripts]  # type: ignore[typeddict-item]
        control.write_services(self.lab, listed)

    def start(self) -> None:
        space = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--"]
        program = ["/usr/bin/python3", "-I", "-S", str(CHECKOUT / "deploy" / "supervisor.py"), str(self.lab.services)]
        self.process = subprocess.Popen([*space, *program])
        wait_for("the supervisor", lambda: control.is_up(self.lab), 20)

    def report(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in control.ask(self.lab, "status")["services"] if one["name"] == name)
        return found

    def said(self, name: str) -> str:
        try:
            return (self.lab.log / f"{name}.log").read_text()
        except FileNotFoundError:  # not there yet, or just being rotated
            return ""

    def until(self, what: str, check: Callable[[], bool]) -> None:
        wait_for(what, check, 20)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    lab = Lab(tmp_path)
    for directory in (lab.run, lab.log):
        directory.mkdir()
    made = Host(lab)
    try:
        yield made
    finally:
        if made.process:
            made.process.kill()
            made.process.wait()


def test_what_ends_is_started_again_and_later_each_time(host: Host) -> None:
    host.services(("brief", "echo hello; exit 3"))
    host.start()
    host.until("four starts", lambda: host.report("brief")["starts"] >= 4)
    assert host.report("brief")["last_exit"] == 3
    assert host.said("brief").count("hello") >= 3
    assert "brief ended with 3" in host.said("brief")


def test_a_service_has_the_user_and_the_privileges_that_are_listed_and_no_others(host: Host) -> None:
    text = "cat /proc/self/status; exec sleep 1000"
    host.services(("plain", text), uid=NOBODY, capabilities=[], no_new_privs=True)
    host.start()
    host.until("its status", lambda: "Seccomp" in host.said("plain"))
    lines = dict(line.split(":", 1) for line in host.said("plain").splitlines() if ":" in line)
    assert lines["Uid"].split() == lines["Gid"].split() == [str(NOBODY)] * 4
    assert not lines["Groups"].split()
    assert {lines[name].strip("\t") for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {"0" * 16}
    assert lines["NoNewPrivs"].strip() == "1"


def test_root_keeps_the_listed_capabilities_alone(host: Host) -> None:
    host.services(("agent", "cat /proc/self/status; exec sleep 1000"), capabilities=["net_admin"])
    host.start()
    host.until("its status", lambda: "Seccomp" in host.said("agent"))
    lines = dict(line.split(":", 1) for line in host.said("agent").splitlines() if ":" in line)
    assert int(lines["CapEff"], 16) == int(lines["CapBnd"], 16) == 1 << 12


def test_a_stopped_service_stays_stopped_until_it_is_started(host: Host) -> None:
    host.services(("one", "exec sleep 1000"), ("two", "exec sleep 1000"))
    host.start()
    host.until("one to run", lambda: host.report("one")["state"] == "running")
    control.ask(host.lab, "stop", name="one")
    host.until("one to stop", lambda: host.report("one")["state"] == "stopped")
    assert host.report("two")["state"] == "running"
    control.ask(host.lab, "start", name="one")
    host.until("one to run again", lambda: host.report("one")["state"] == "running")
    assert host.report("one")["starts"] == 2


def test_a_service_that_does_not_stop_is_killed(host: Host) -> None:
    host.services(("deaf", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"), stop_timeout_s=0.3)
    host.start()
    host.until("the trap", lambda: "deaf" in host.said("deaf"))
    control.ask(host.lab, "stop", name="deaf")
    host.until("its end", lambda: host.report("deaf")["state"] == "stopped")
    assert host.report("deaf")["last_exit"] == -signal.SIGKILL


def test_reload_starts_what_is_new_stops_what_is_gone_and_restarts_what_changed(host: Host) -> None:
    host.services(("kept", "exec sleep 1000"), ("gone", "exec sleep 1000"), ("changed", "exec sleep 1000"))
    host.start()
    host.until("all to run", lambda: all(host.report(name)["pid"] for name in ("kept", "gone", "changed")))
    kept, changed = host.report("kept")["pid"], host.report("changed")["pid"]
    host.services(("kept", "exec sleep 1000"), ("changed", "exec sleep 2000"), ("new", "exec sleep 1000"))
    control.ask(host.lab, "reload")
    host.until("the new one", lambda: bool(host.report("new")["pid"]))
    host.until("the changed one", lambda: host.report("changed")["pid"] not in (0, changed))
    assert host.report("kept")["pid"] == kept
    assert {one["name"] for one in control.ask(host.lab, "status")["services"]} == {"kept", "changed", "new"}


def test_orphans_are_reaped(host: Host) -> None:
    host.services(("parent", "sleep 0.1 & echo orphan $!; exit 0"))
    host.start()
    host.until("an orphan", lambda: "orphan" in host.said("parent"))
    control.ask(host.lab, "stop", name="parent")
    host.until("the init to be alone", lambda: list(control.processes(host.lab)) == [1])


def test_a_full_log_is_rotated_and_the_oldest_part_dropped(host: Host) -> None:
    host.services(("loud", "yes 'line after line after line' | head -c 30000000; echo over; exec sleep 1000"))
    host.start()
    host.until("everything to be written", lambda: host.said("loud").endswith("over\n"))
    assert all(path.stat().st_size <= 8 << 20 for path in host.lab.log.glob("loud.log*"))
    assert len(list(host.lab.log.glob("loud.log*"))) == 3


def test_shutdown_stops_from_the_last_to_the_first_and_ends(host: Host, tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = f"trap 'echo $0 >> {order}; exit 0' TERM; echo ready; while :; do sleep 0.02; done"
    host.services(*((name, script.replace("$0", name)) for name in ("first", "second", "third")))
    host.start()
    host.until("all traps", lambda: all("ready" in host.said(name) for name in ("first", "second", "third")))
    control.ask(host.lab, "shutdown")
    assert host.process is not None
    assert host.process.wait(20) == 0
    assert order.read_text().split() == ["third", "second", "first"]
    assert not control.is_up(host.lab)


def test_killing_the_init_ends_everything_at_once(host: Host) -> None:
    host.services(("one", "sleep 1000 & sleep 1000"))
    host.start()
    host.until("its children", lambda: len(control.processes(host.lab)) == 4)
    handles = [os.pidfd_open(pid) for pid in control.processes(host.lab).values()]
    os.kill(control.init_pid(host.lab), signal.SIGKILL)
    for handle in handles:
        assert select.select([handle], [], [], 20)[0]
        os.close(handle)


def test_nonsense_on_the_socket_is_refused_and_harms_nothing(host: Host) -> None:
    host.services(("one", "exec sleep 1000"))
    host.start()
    with pytest.raises(RuntimeError, match="no service"):
        control.ask(host.lab, "stop", name="absent")
    with pytest.raises(RuntimeError, match="unknown request"):
        control.ask(host.lab, "dance", name="one")
    with pytest.raises(control.Down), control._connect(host.lab) as connection:
        connection.sendall(b"not json\n")
        if not connection.recv(10):
            raise control.Down
    assert host.report("one")["state"] == "running"


def test_the_supervisor_imports_little() -> None:
    """It runs beside everything else, so what it imports costs memory on every host."""
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import deploy.supervisor; print(len(sys.modules))"
    done = subprocess.run(["/usr/bin/python3", "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 120
