"""One suite for both drivers: the kernel's, on a host of its own, and the fake one."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from agent.network import links, names, netns
from agent.network import rtnetlink as nl
from agent.network.driver import Driver
from agent.network.fake import FakeDriver
from kumo.api.agent.v1.network_pb2 import PortFacts, RemotePort
from kumo.errors import FailedPrecondition
from kumo.ids import new_uid
from tests.agent.network.lab import HERE, Lab, own_host, shell
from tests.agent.network.rig import Rig, kernel_driver, running

MAC, ADDRESS, VNI = "02:aa:00:00:00:11", "10.0.0.11", 0x41


class Host(Protocol):
    """A host as a hypervisor, a reboot and a careless hand see it."""

    directory: Path

    def driver(self) -> Driver: ...

    def add_tap(self, port_uid: str) -> bool:
        """Do as libvirt at the start of a server; False when the start is refused."""

    def drop_tap(self, port_uid: str) -> None: ...

    def lose(self, link: str) -> None: ...

    def flush_rules(self) -> None: ...

    def add_stray(self, vni: int) -> None: ...

    def has(self, link: str) -> bool: ...

    def boot(self) -> None: ...

    def state(self) -> str:
        """All that the driver changes, as text."""


class FakeHost:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._driver = FakeDriver(directory / "fake.json")

    def driver(self) -> FakeDriver:
        self._driver = FakeDriver(self.directory / "fake.json")
        return self._driver

    def add_tap(self, port_uid: str) -> bool:
        try:
            self._driver.add_tap(names.tap(port_uid))
        except LookupError:
            return False
        return True

    def drop_tap(self, port_uid: str) -> None:
        self._driver.drop_tap(names.tap(port_uid))

    def lose(self, link: str) -> None:
        self._driver.lose(link)

    def flush_rules(self) -> None:
        self._driver.flush_rules()

    def add_stray(self, vni: int) -> None:
        self._driver.add_stray(vni, "ktstray")

    def has(self, link: str) -> bool:
        kernel = json.loads(self.state())
        return any(link in kernel[kind] for kind in ("bridges", "tunnels", "legs")) or bool(kernel["taps"].get(link))

    def boot(self) -> None:
        self._driver.boot()

    def state(self) -> str:
        return (self.directory / "fake.json").read_text()


class KernelHost:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.directory = lab.directory

    def driver(self) -> Driver:
        return kernel_driver(self.directory, self._lab.namespaces)

    def add_tap(self, port_uid: str) -> bool:
        guest = self._lab.guest(port_uid, MAC, ADDRESS)
        return self._lab.hook(guest.tap).returncode == 0

    def drop_tap(self, port_uid: str) -> None:
        self.lose(names.tap(port_uid))

    def lose(self, link: str) -> None:
        self._ip("link", "del", link)

    def flush_rules(self) -> None:
        shell(self._lab.plane, "nft", "flush", "ruleset")

    def add_stray(self, vni: int) -> None:
        self._ip("link", "add", names.bridge(vni), "type", "bridge")
        self._ip("link", "add", "ktstray", "type", "veth", "peer", "name", "foreign0")
        self._ip("link", "set", "ktstray", "master", names.bridge(vni))

    def has(self, link: str) -> bool:
        with netns.visit(self._lab.plane):
            route = nl.Netlink()
        try:
            found = links.get(route, link)
            return found is not None and (not link.startswith(names.TAP) or bool(found.master))
        finally:
            route.close()

    def boot(self) -> None:
        self._lab.boot()

    def state(self) -> str:
        """Rules without their counters, and the generation, which counts every change of rules."""
        rules = shell(self._lab.plane, "nft", "-s", "list", "ruleset")
        found = shell(self._lab.plane, "ip", "-d", "link") + shell(self._lab.plane, "bridge", "fdb")
        return rules + re.sub(r"timer +[0-9.]+", "", found) + (self.directory / "network" / "rules.json").read_text()

    def _ip(self, *arguments: str) -> None:
        shell(self._lab.plane, "ip", *arguments)


@pytest.fixture(params=["fake", "kernel"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    if request.param == "fake":
        yield FakeHost(tmp_path)
        return
    lab = Lab()
    try:
        with own_host():
            yield KernelHost(lab)
    finally:
        lab.remove()


@pytest.fixture
async def rig(host: Host) -> AsyncIterator[Rig]:
    async with running(start(host)) as started:
        yield started


def start(host: Host) -> Rig:
    return Rig(host.directory, host.driver(), responder=host.directory / "nobody.sock")


async def bound_port(rig: Rig) -> tuple[str, str]:
    """Return the uids of a network and of a port on it that is bound."""
    network, port = new_uid(), new_uid()
    await rig.put_network(network, VNI)
    await rig.put_port(port, network, MAC, ADDRESS)
    await rig.until(port, PortFacts.BOUND)
    return network, port


async def test_a_port_is_bound_and_then_its_tap_is_plugged_in(host: Host, rig: Rig) -> None:
    _, port = await bound_port(rig)
    assert rig.network.is_bound(port) and not rig.facts[port].plugged
    assert host.add_tap(port)
    await rig.until(port, PortFacts.BOUND, plugged=True)
    assert list(await rig.driver.traffic()) == [names.tap(port)]
    host.drop_tap(port)
    await rig.until(port, PortFacts.BOUND, plugged=False)
    assert await rig.driver.traffic() == {}


async def test_a_tap_of_a_port_that_is_not_bound_is_refused(host: Host, rig: Rig) -> None:
    network, port = new_uid(), new_uid()
    await rig.put_port(port, network, MAC, ADDRESS)
    await rig.until(port, PortFacts.UNBOUND)
    assert rig.facts[port].conditions[0].reason == "NETWORK_NOT_APPLIED"
    assert not host.add_tap(port)
    await rig.put_network(network, VNI)  # the other order is as good
    await rig.until(port, PortFacts.BOUND)


async def test_what_shall_go_goes_and_leaves_nothing(host: Host, rig: Rig) -> None:
    network, port = await bound_port(rig)
    host.add_tap(port)
    await rig.until(port, PortFacts.BOUND, plugged=True)
    await rig.drop_network(network)  # too early: its port is still here
    await rig.drop_port(port)
    await rig.until(port, PortFacts.ABSENT)
    assert not host.has(names.tap(port))
    await rig.drop_network(network)
    await rig.wait(lambda: not rig.guests.networks())
    assert not any(host.has(link) for link in (names.bridge(VNI), names.tunnel(VNI), names.metadata_leg(VNI)))
    assert not rig.guests.port_uids()


async def test_a_restart_changes_nothing(host: Host) -> None:
    async with running(start(host)) as rig:
        _, port = await bound_port(rig)
        host.add_tap(port)
        await rig.until(port, PortFacts.BOUND, plugged=True)
    before = host.state()
    async with running(start(host)) as rig:
        await rig.until(port, PortFacts.BOUND, plugged=True)
        await rig.wait(lambda: rig.is_known)
    assert host.state() == before
    if isinstance(host, FakeHost):
        assert host._driver.change_count == 0


async def test_a_pass_with_nothing_to_do_changes_nothing(host: Host, rig: Rig) -> None:
    network, port = await bound_port(rig)
    before = host.state()
    sequence = rig.facts[port].held.sequence
    await rig.put_network(network, VNI)
    await rig.put_port(port, network, MAC, ADDRESS, server_uid=rig.ports.held[port].desired.server_uid)
    await rig.wait(lambda: rig.facts[port].held.sequence > sequence)
    assert host.state() == before


async def test_all_is_made_again_after_a_boot_with_no_controller(host: Host) -> None:
    async with running(start(host)) as rig:
        _, port = await bound_port(rig)
    host.boot()
    async with running(start(host)) as rig:
        await rig.until(port, PortFacts.BOUND)
        assert host.add_tap(port)
        await rig.until(port, PortFacts.BOUND, plugged=True)


@pytest.mark.parametrize("link", [names.bridge(VNI), names.tunnel(VNI), names.metadata_leg(VNI)])
async def test_a_link_that_somebody_removed_comes_back(host: Host, rig: Rig, link: str) -> None:
    _, port = await bound_port(rig)
    host.add_tap(port)
    await rig.until(port, PortFacts.BOUND, plugged=True)
    host.lose(link)
    await rig.wait(lambda: host.has(link) and host.has(names.tap(port)))
    await rig.until(port, PortFacts.BOUND, plugged=True)


async def test_rules_that_somebody_flushed_come_back(host: Host, rig: Rig) -> None:
    _, port = await bound_port(rig)
    host.flush_rules()
    tap = names.tap(port)
    if isinstance(host, FakeHost):
        await rig.wait(lambda: host._driver.lets_through(tap))
    else:
        await rig.wait(lambda: host.state().count(f'"{tap}"') == 3)


async def test_entries_that_somebody_planted_are_taken_out(lab: Lab) -> None:
    """Each would lead a guest's frames elsewhere: to a strange host, to every host, to another guest, or to nobody."""
    host = KernelHost(lab)
    async with running(start(host)) as rig:
        network, port = await bound_port(rig)
        remote = RemotePort(mac="02:bb:00:00:00:01", addresses=["10.0.0.201"], tunnel_address="192.0.2.9")
        await rig.put_network(network, VNI, remotes=(remote,))
        assert host.add_tap(port)
        await rig.until(port, PortFacts.BOUND, plugged=True)
        await rig.wait(lambda: remote.mac in host.state())
        bridge, tunnel, tap, leg = names.bridge(VNI), names.tunnel(VNI), names.tap(port), names.metadata_leg(VNI)
        stranger = "02:66:00:00:00:66"
        planted = [
            ("bridge", "fdb", "add", stranger, "dev", tunnel, "dst", "198.51.100.6", "self", "permanent"),
            ("bridge", "fdb", "add", "00:00:00:00:00:00", "dev", tunnel, "dst", "198.51.100.6", "self", "permanent"),
            ("bridge", "fdb", "replace", remote.mac, "dev", tunnel, "dst", "198.51.100.6", "self", "permanent"),
            ("bridge", "fdb", "add", stranger, "dev", tap, "master", "static"),
            ("bridge", "fdb", "add", stranger, "dev", tap, "master", "permanent"),
            ("bridge", "fdb", "add", stranger, "dev", leg, "master", "static"),
            ("ip", "neigh", "add", "10.0.0.66", "lladdr", stranger, "dev", bridge, "nud", "permanent"),
        ]

        def entries() -> set[str]:
            listed = shell(lab.plane, "bridge", "fdb") + shell(lab.plane, "ip", "neigh")
            return {line for line in listed.splitlines() if not re.search("33:33|01:00:5e", line)}

        before = entries()
        for command in planted:
            shell(lab.plane, *command)
            await rig.wait(lambda: entries() == before)
        await rig.until(port, PortFacts.BOUND, plugged=True)


async def test_strays_are_removed_and_what_is_foreign_stays(host: Host) -> None:
    async with running(start(host)) as rig:
        network, _ = await bound_port(rig)
        host.add_stray(0x99)
        assert host.has(names.bridge(0x99)) and host.has("ktstray")
    async with running(start(host)) as rig:
        await rig.wait(lambda: not host.has(names.bridge(0x99)) and not host.has("ktstray"))
        assert host.has(names.bridge(VNI)) and network in rig.guests.networks()
    if isinstance(host, KernelHost):
        assert host.has("foreign0")


async def test_remote_ports_are_entered_and_taken_out(host: Host, rig: Rig) -> None:
    network = new_uid()
    remotes = [RemotePort(mac=f"02:bb:00:00:00:0{n}", addresses=[f"10.0.0.{n}"], tunnel_address="192.0.2.9") for n in (1, 2)]
    await rig.put_network(network, VNI, remotes=tuple(remotes))
    await rig.wait(lambda: all(remote.mac in host.state() for remote in remotes))
    await rig.put_network(network, VNI, remotes=(remotes[1],))
    await rig.wait(lambda: remotes[0].mac not in host.state())
    assert remotes[1].mac in host.state()


async def test_what_cannot_be_beside_the_others_is_refused(rig: Rig) -> None:
    network, port = await bound_port(rig)
    with pytest.raises(FailedPrecondition, match="VNI_TAKEN"):
        await rig.put_network(new_uid(), VNI)
    with pytest.raises(FailedPrecondition, match="ADDRESS_TAKEN"):
        await rig.put_port(new_uid(), network, "02:aa:00:00:00:99", ADDRESS)
    assert list(rig.ports.held) == [port]


async def test_nothing_is_removed_while_a_state_file_cannot_be_trusted(host: Host) -> None:
    async with running(start(host)) as rig:
        _, port = await bound_port(rig)
        host.add_tap(port)
        await rig.until(port, PortFacts.BOUND, plugged=True)
    (damaged,) = (host.directory / "state" / "ports").glob("*.state")
    damaged.write_bytes(b"nonsense")
    async with running(start(host)) as rig:
        await rig.wait(lambda: rig.is_known)
        assert rig.files.problems
        assert host.has(names.tap(port)) and names.tap(port) in host.state()


async def test_the_tunnels_socket_stays_on_the_host(lab: Lab) -> None:
    host = KernelHost(lab)
    async with running(start(host)) as rig:
        await bound_port(rig)
        assert ":4789" in shell(HERE, "ss", "-Huln")
        assert ":4789" not in shell(lab.plane, "ss", "-Huln")
