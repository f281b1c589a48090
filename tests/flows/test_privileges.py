"""Every process that `make up` left has the rights of the product's table, and who answers guests holds no key and needs no agent."""

import contextlib
import re
import subprocess
from functools import partial
from pathlib import Path

from deploy import control, processes
from deploy.lab import life
from deploy.layout import Lab, Port, User
from deploy.rights import IMAGE_PROGRAM, QEMU, RIGHTS, SUPERVISOR, Rights
from tests.flows.cloud import Cloud, until
from tests.flows.guest import shell
from tests.flows.hosts import Hosts
from tests.rights import listed, rights_of, status

AGENT, RESPONDER = "kumo-agent", "kumo-guest-responder"
PLANES = ("kumo-controller-region", "kumo-controller-cell")
# A private key of TLS or SSH, and a key of Ceph's. Installed programs and disks are left out.
KEYS = [
    "grep",
    "-rlsE",
    "--binary-files=text",
    "--devices=skip",
    "--exclude-dir=venv",
    "--exclude=block",
    r"PRIVATE KEY-----|^\s*key = \S{38}==",
]


def names(lab: Lab) -> dict[int, str]:
    """Return what each process of the host is, by its pid here."""
    known = {pid: name for name, pid in control.service_pids(lab).items()}
    known[control.init_pid(lab)] = SUPERVISOR
    for pid in control.processes(lab).values():
        if pid not in known:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            known[pid] = QEMU if command[0].startswith(b"/usr/bin/qemu-system-") else b" ".join(command).decode()
    return known


def compared(lab: Lab) -> set[str]:
    """Return what runs on a host, once it is seen that all of it has the rights of the table."""
    # A machine in a container has not all there are: nobody can have more than the host's init.
    most = listed(status(Path(f"/proc/{control.init_pid(lab)}"))["CapBnd"])
    seen = set()
    for pid, name in names(lab).items():
        assert name in RIGHTS, f"{name} is in no table of rights"
        wanted = RIGHTS[name]
        there = Rights(wanted.uid, wanted.groups, wanted.capabilities & most, wanted.bounding & most, wanted.no_new_privs, wanted.filters)
        for thread in Path(f"/proc/{pid}/task").iterdir():
            assert rights_of(status(thread)) == there, (name, thread.name)
        seen.add(name)
    return seen


def test_every_process_has_the_rights_of_the_table_and_no_other_runs(cloud: Cloud) -> None:
    # Of the image child a test of its own tells; two processes for the two planes are in a lab of several hosts.
    assert compared(cloud.lab) == RIGHTS.keys() - {IMAGE_PROGRAM, *PLANES}


def is_at_rest(lab: Lab) -> bool:
    """Whether nothing is just being started, or asked what it can do: other tests have killed and booted things here."""
    try:
        compared(lab)
    except (AssertionError, OSError, control.Down):
        return False
    return True


def test_so_has_every_process_on_every_node_of_a_lab(hosts: Hosts) -> None:
    until(lambda: all(state == "running" for state in life.states(hosts.shape).values()), "all of the lab runs")
    seen: set[str] = set()
    for name in hosts.shape.nodes:
        with contextlib.suppress(AssertionError):  # the comparison says more
            until(partial(is_at_rest, hosts.node(name)), f"{name} is at rest", 20)
        seen |= compared(hosts.node(name))
    # Whether a server runs there is others' business.
    assert seen | {QEMU} == RIGHTS.keys() - {IMAGE_PROGRAM, "kumo-controller"}


def test_qemu_is_told_to_lock_itself_in(cloud: Cloud) -> None:
    (qemu, *_) = [pid for pid, name in names(cloud.lab).items() if name == QEMU]
    words = Path(f"/proc/{qemu}/cmdline").read_text().split("\0")
    sandbox = words[words.index("-sandbox") + 1].split(",")
    assert {"on", "obsolete=deny", "elevateprivileges=deny", "spawn=deny", "resourcecontrol=deny"} <= set(sandbox)


def test_who_answers_guests_can_read_no_key(cloud: Cloud) -> None:
    places = [str(cloud.lab.state), "/run", "/etc/ceph", "/etc/libvirt"]
    as_guest = ["setpriv", f"--reuid={User.GUEST:d}", f"--regid={User.GUEST:d}", "--clear-groups", "--"]
    there = set(cloud.inside(*KEYS, *places, check=False).split())
    assert len({Path(path).parent for path in there}) >= 4, "root finds them where they are"
    assert cloud.inside(*as_guest, *KEYS, *places, check=False).split() == []
    # What it does read is there, or the search would prove nothing.
    answers = str(cloud.lab.guest / "answers")
    assert cloud.inside(*as_guest, "grep", "-rls", "hostname", answers, check=False).split()
    pid = control.service_pids(cloud.lab)[RESPONDER]
    held = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    files = [name for name in held if name.startswith("/") and name != "/dev/null"]
    assert files == [], "it holds sockets and pipes alone"
    assert not re.search(rb"KEY|SECRET|PASS|TOKEN", Path(f"/proc/{pid}/environ").read_bytes())


def answered(cloud: Cloud) -> tuple[int, int]:
    """Return how many addresses were given and how many pages of metadata were read since the responder started."""
    page = responder_page(cloud)
    given = re.search(r'kumo_guest_dhcp_requests_total\{result="ack"\} (\d+)', page)
    read = re.search(r'kumo_guest_http_requests_total\{code="200"\} (\d+)', page)
    return int(given[1]) if given else 0, int(read[1]) if read else 0


def is_told(cloud: Cloud, command: str) -> bool:
    try:
        with shell(cloud, "hello") as run:
            run.run(command)
    except AssertionError:
        return False
    return True


def responder_page(cloud: Cloud) -> str:
    fetch = ["curl", "-s", "--max-time", "2", f"http://{cloud.lab.address(Port.GUEST_METRICS)}/metrics"]
    return subprocess.run(fetch, capture_output=True, text=True, timeout=10, check=False).stdout


def until_answered(cloud: Cloud, before: tuple[int, int], when: str) -> None:
    until(lambda: all(now > old for now, old in zip(answered(cloud), before, strict=True)), f"DHCP and metadata are answered {when}", 60)


def test_guests_are_answered_with_the_agent_dead_and_by_a_new_responder_too(cloud: Cloud) -> None:
    ask = "udhcpc -f -q -n -t 2 -T 2 -i eth0 -s /bin/true; wget -q -O /dev/null http://169.254.169.254/latest/meta-data/hostname; sleep 0.3"
    with shell(cloud, "hello") as run:
        run.run(f"(while [ ! -e /run/enough ]; do {ask}; done) >/dev/null 2>&1 & true")
    try:
        until_answered(cloud, answered(cloud), "with everything there")
        cloud.kill(AGENT)
        control.ask(cloud.lab, "stop", name=AGENT)
        until(lambda: AGENT not in control.service_pids(cloud.lab), "the agent is dead")
        until_answered(cloud, answered(cloud), "with the agent dead")
        cloud.kill(RESPONDER)
        until(lambda: processes.is_alive(cloud.lab, Port.GUEST_METRICS) and RESPONDER in control.service_pids(cloud.lab), "it is back")
        until_answered(cloud, (0, 0), "by a new responder with the agent dead")
        assert AGENT not in control.service_pids(cloud.lab)
    finally:
        control.ask(cloud.lab, "start", name=AGENT)
        until(lambda: is_told(cloud, "touch /run/enough"), "the guest is reached through the agent again")
