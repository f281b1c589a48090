"""The addresses of a host are read as they are, with what their links carry."""

import subprocess
from collections.abc import Iterator
from uuid import uuid4

import pytest

from agent.network import netns, planes


@pytest.fixture
def host() -> Iterator[str]:
    name = f"kumo-planes-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_addresses_are_told_with_their_links_and_what_these_carry(host: str) -> None:
    def ip(*words: str) -> None:
        subprocess.run(["ip", "-n", host, *words], check=True)

    for link, mtu, addresses in (("eth0", "1500", ["10.1.0.5/24", "fd00::5/64"]), ("eth1", "9000", ["10.2.0.5/32"])):
        ip("link", "add", link, "type", "bridge")
        ip("link", "set", link, "up", "mtu", mtu)
        for address in addresses:
            ip("addr", "add", address, "dev", link)
    with netns.visit(f"/run/netns/{host}"):
        found = [(one.link, one.address, one.mtu) for one in planes.addresses()]
    assert found == [("eth0", "10.1.0.5", 1500), ("eth0", "fd00::5", 1500), ("eth1", "10.2.0.5", 9000)]
