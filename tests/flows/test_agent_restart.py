"""Agents end and begin again under load: no packet is lost, nothing is changed, and what is not Kumo's stays as it is."""

import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.network import netns
from deploy import control
from deploy.hello import IMAGE
from deploy.layout import Port
from tests.agent.network.kernel_state import state
from tests.agent.network.lab import shell
from tests.flows.cloud import until
from tests.flows.hosts import Hosts
from tests.flows.live_path import End, Stream, end_of, host_namespace, listening, plane_namespace

AGENT = "kumo-agent"
PER_SECOND, AT_LEAST = 1000, 3000
FOREIGN = """
table inet foreign { chain c { type filter hook forward priority 50; counter; }; }
table bridge foreign { chain c { type filter hook forward priority 50; counter; }; }
"""
STRICT = "add table bridge strict; add chain bridge strict c { type filter hook forward priority 0; policy drop; }"


@dataclass(frozen=True)
class Place:
    """Two servers of one network on two hosts, whose guests have booted: a driver that begins changes what its tap offers."""

    hosts: Hosts
    first: End
    second: End

    @property
    def on(self) -> tuple[str, str]:
        return self.first.host, self.second.host

    def namespaces(self) -> list[str]:
        return [namespace(self.hosts, host) for host in self.on for namespace in (host_namespace, plane_namespace)]


@pytest.fixture(scope="module")
def place(hosts: Hosts) -> Iterator[Place]:
    servers = {"one": "h1", "two": "h2"}
    hosts.kumo("network", "create", "path", "--cidr", "10.8.0.0/24", "--wait")
    for name, host in servers.items():
        with hosts.only_on(host):
            hosts.kumo("server", "create", name, "--image", IMAGE, "--flavor", "tiny", "--network", "path", "--no-wait")
            hosts.kumo("server", "wait", name, "--for=Placed", "--timeout", "30")
    for name in servers:
        hosts.kumo("server", "wait", name, "--for=ready", "--timeout", "120")
    yield Place(hosts, end_of(hosts, "one"), end_of(hosts, "two"))
    hosts.kumo("server", "delete", *servers, "--wait", "--timeout", "60")
    hosts.kumo("subnet", "delete", "path", "--wait")
    hosts.kumo("network", "delete", "path", "--wait")


@pytest.fixture
def foreign(place: Place) -> Iterator[None]:
    """What others have on a host and, where they should not be, in its data plane."""
    agents = [place.hosts.node(host).agent / "network" for host in place.on]
    kept = [folder / name for folder in agents for name in ("rules.json", "host-rules.json")]
    known = [file.stat().st_mtime_ns for file in kept]
    for namespace in place.namespaces():
        shell(namespace, "ip", "link", "add", "foreign0", "type", "bridge")
        # A link-local address would be made, and announced, some seconds after.
        shell(namespace, "ip", "link", "set", "foreign0", "addrgenmode", "none")
        shell(namespace, "ip", "link", "set", "foreign0", "up")
        shell(namespace, "ip", "addr", "add", "10.77.0.1/24", "dev", "foreign0")
        shell(namespace, "ip", "route", "add", "10.78.0.0/24", "dev", "foreign0")
        shell(namespace, "nft", FOREIGN)
    # An agent that hears of it looks at its own rules, or fills them in anew, and writes down that they are in force.
    until(lambda: all(file.stat().st_mtime_ns != then for file, then in zip(kept, known, strict=True)), "the agents rest again")
    yield
    for namespace in place.namespaces():
        shell(namespace, "nft", "delete table inet foreign; delete table bridge foreign")
        shell(namespace, "ip", "link", "del", "foreign0")


def counted(hosts: Hosts, host: str) -> dict[str, float]:
    """Return what a host's agent counted of its network since it began; nothing while it does not answer."""
    with netns.visit(host_namespace(hosts, host)):
        try:
            with urllib.request.urlopen(f"http://{hosts.node(host).address(Port.AGENT_METRICS)}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {f"{one.name}{sorted(one.labels.values())}": one.value for one in samples}


def has_settled(hosts: Hosts, host: str) -> bool:
    """Whether a host's agent has looked at everything that there is for it: a network, a port, and what is unwanted."""
    found = counted(hosts, host)
    depth, done = (found.get(f"kumo_reconcile_{name}['network']") for name in ("queue_depth", "duration_seconds_count"))
    return depth == 0 and done is not None and done >= 3


def counted_by_next(hosts: Hosts, host: str, pid: int) -> dict[str, float]:
    """Return what the agent counted that came after the one of that process."""
    until(lambda: control.service_pids(hosts.node(host)).get(AGENT) not in (None, pid), f"{host} has an agent again")
    until(lambda: has_settled(hosts, host), f"the agent of {host} has looked at all")
    return counted(hosts, host)


def changes(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name.startswith(("kumo_network_steps_total", "kumo_network_commits_total"))}


def picture(place: Place) -> dict[str, object]:
    return {
        namespace: (state(namespace), sorted(shell(namespace, "ip", "route").splitlines()), shell(namespace, "ip", "-br", "-4", "addr"))
        for namespace in place.namespaces()
    }


def test_agents_that_are_killed_or_told_to_end_lose_no_packet_and_change_nothing(place: Place, foreign: None) -> None:
    hosts = place.hosts
    before = picture(place)
    with Stream(hosts, place.first, place.second, PER_SECOND) as stream, listening(hosts, *place.on) as ear:
        for number in (signal.SIGKILL, signal.SIGTERM):
            pids = {host: control.service_pids(hosts.node(host))[AGENT] for host in place.on}
            for host in place.on:
                hosts.kill(host, AGENT, number)
            for host in place.on:
                assert changes(counted_by_next(hosts, host, pids[host])) == {}, "what an agent finds is as it shall be"
        until(lambda: stream.sent >= AT_LEAST, "enough is sent")
        assert ear.heard() == set()
        for verb in ("add", "del"):
            shell(plane_namespace(hosts, "h1"), "ip", "addr", verb, "10.77.0.2/32", "dev", "foreign0")
        assert ear.heard(), "the ear does hear"
    assert (stream.sent >= AT_LEAST, stream.lost) == (True, 0)
    assert picture(place) == before


def test_a_stream_that_is_cut_for_a_moment_is_seen_to_be(place: Place) -> None:
    """The control of the one before."""
    with Stream(place.hosts, place.first, place.second, PER_SECOND) as stream:
        until(lambda: stream.sent > 100, "some went through")
        place.hosts.plane("h2", "nft", STRICT)
        at = stream.sent
        until(lambda: stream.sent > at + 50, "some were cut off")
        place.hosts.plane("h2", "nft", "delete", "table", "bridge", "strict")
        at = stream.sent
        until(lambda: stream.sent > at + 50, "some went through again")
    assert 50 <= stream.lost < stream.sent


def test_a_running_server_whose_tap_was_removed_says_so_until_it_is_rebooted(place: Place) -> None:
    hosts = place.hosts

    def condition() -> dict[str, str]:
        found: list[dict[str, str]] = hosts.server("two")["status"]["conditions"]
        return next(one for one in found if one["type"] == "PortsReady")

    hosts.plane("h2", "ip", "link", "del", place.second.tap)
    until(lambda: condition()["reason"] == "TAP_LOST", "it is told that the tap is gone")
    assert hosts.state_of("server", "two") == "ACTIVE" and "--hard" in condition()["fix"]
    assert "TAP_LOST" in hosts.kumo("event", "list", "--for", "server/two", "-o", "json").stdout
    hosts.kumo("server", "reboot", "two", "--hard", "--wait", "--timeout", "60")
    until(lambda: condition()["status"] == "TRUE", "the server has its tap again")
    assert place.second.tap in hosts.plane("h2", "ip", "-br", "link")
