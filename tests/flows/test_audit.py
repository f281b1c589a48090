"""The auditor finds a discrepancy of each kind, planted in a real lab whose processes stand still, and nothing in a lab at rest."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from deploy import control
from tests.flows import settled
from tests.flows.audit import Finding, Kind, findings
from tests.flows.hosts import Hosts
from tests.flows.picture import take
from tests.flows.planted import Garden, plant

OURS = "kumo-"


@dataclass(frozen=True)
class Inspected:
    """What was planted, what was found with it, and what was left when it was taken out and before anything ran again."""

    planted: dict[Kind, str]
    found: set[Finding]
    left: set[Finding]


@contextmanager
def standing_still(hosts: Hosts) -> Iterator[None]:
    """Stop every process of Kumo's, so that none repairs or is misled by what is planted."""
    nodes = [hosts.node(name) for name in hosts.shape.nodes]
    handles = [os.pidfd_open(pid) for node in nodes for name, pid in control.service_pids(node).items() if name.startswith(OURS)]
    try:
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGSTOP)
        yield
    finally:
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGCONT)
            os.close(handle)


@pytest.fixture(scope="module")
def inspected(hosts: Hosts) -> Iterator[Inspected]:
    settled.prepare(hosts)
    first, second = settled.create(hosts, "garden-1", "h1"), settled.create(hosts, "garden-2", "h2")
    settled.wait_until_clean(hosts, "two servers run")
    with standing_still(hosts):
        garden = Garden(hosts, first, second)
        try:
            plant(garden)
            found = findings(take(hosts))
        finally:
            garden.clear()
        left = findings(take(hosts))
    yield Inspected(garden.planted, found, left)
    settled.wait_until_clean(hosts, "what was planted is gone")
    hosts.kumo("server", "delete", "garden-1", "garden-2", "--wait", "--timeout", "60")
    settled.wait_until_clean(hosts, "the servers are gone")


@pytest.mark.parametrize("kind", list(Kind))
def test_a_planted_discrepancy_is_found(inspected: Inspected, kind: Kind) -> None:
    told = [finding.what for finding in inspected.found if finding.kind is kind]
    assert any(inspected.planted[kind] in what for what in told), f"planted {inspected.planted[kind]}, found {told}"


def test_nothing_else_is_found(inspected: Inspected) -> None:
    assert not inspected.left
