"""libvirt's hook: it moves a tap onto its bridge, or refuses the start."""

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.network import admission, hook, links, names, netns
from agent.network import rtnetlink as nl
from agent.network.admission import Admission
from agent.network.leg import write_sysctls
from kumo.ids import new_uid
from tests.agent.network.lab import HOOK, Lab, wait_for

MAC, OTHER_MAC = "02:aa:00:00:00:11", "02:aa:00:00:00:12"


@pytest.fixture
def route(lab: Lab) -> Iterator[nl.Netlink]:
    """A socket of a data plane with one bridge; there are no files yet that admit taps to it."""
    lab.namespaces.mkdir()
    (lab.directory / "network" / "taps").mkdir(parents=True)
    netns.create(lab.plane)
    with netns.visit(lab.plane):
        write_sysctls()
        route = nl.Netlink()
    info = nl.nest(links.IFLA_LINKINFO, nl.text(links.INFO_KIND, "bridge"))
    route.call(nl.RTM_NEWLINK, nl.NLM_F_CREATE, links.ifinfo() + nl.text(links.IFLA_IFNAME, "kb65") + info)
    yield route
    route.close()


def admit(lab: Lab, tap: str, mac: str = MAC) -> None:
    admission.put(str(lab.directory / "network" / "taps"), tap, Admission(lab.plane, "kb65", mac, 1400))


def make_tap(name: str) -> int:
    """Make a tap as a hypervisor does, and return the descriptor through which its guest speaks."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))
    host = nl.Netlink()
    host.call_all([links.change(links.need(host, name).index, up=True)])
    host.close()
    return descriptor


def read_all(descriptor: int) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(os.read(descriptor, 2048))
    except BlockingIOError:
        return found


def test_a_tap_is_moved_plugged_in_and_works_through_its_descriptor(lab: Lab, route: nl.Netlink) -> None:
    taps = {names.tap(new_uid()): mac for mac in (MAC, OTHER_MAC)}
    for tap, mac in taps.items():
        admit(lab, tap, mac)
    descriptors = [make_tap(tap) for tap in taps]
    try:
        done = lab.hook(*taps)
        assert done.returncode == 0, done.stderr
        bridge = links.need(route, "kb65")
        for tap, mac in taps.items():
            link = links.need(route, tap)
            assert link.mtu == 1400 and links.is_plugged(route, link, bridge, mac)
        route.call_all([links.change(bridge.index, up=True)])
        frame = b"\xff" * 6 + links.pack_mac(MAC) + b"\x88\xb5" + b"hello" * 20
        os.write(descriptors[0], frame)
        wait_for("the frame", lambda: frame in read_all(descriptors[1]))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    wait_for("taps end with their hypervisor", lambda: links.get(route, next(iter(taps))) is None)


def test_what_waited_in_a_tap_for_its_guest_is_dropped(lab: Lab, route: nl.Netlink) -> None:
    """While a tap is in the host's namespace, the host speaks IPv6 to it."""
    tap, left_alone = names.tap(new_uid()), names.tap(new_uid())
    admit(lab, tap)
    descriptors = [make_tap(tap), make_tap(left_alone)]
    try:
        wait_for("the host's own frames", lambda: read_all(descriptors[1]))
        assert lab.hook(tap).returncode == 0
        assert read_all(descriptors[0]) == []
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_start_is_refused_when_a_tap_cannot_be_plugged_in(lab: Lab, route: nl.Netlink) -> None:
    tap = names.tap(new_uid())
    done = lab.hook(tap)
    assert done.returncode == 1 and "no port whose rules are in force" in done.stderr
    admit(lab, tap)
    done = lab.hook(tap)
    assert done.returncode == 1 and "was not made by libvirt" in done.stderr
    descriptor = make_tap(tap)
    try:
        with netns.visit(lab.plane):
            taken = make_tap(tap)
        done = lab.hook(tap)  # the name is taken in the data plane
        assert done.returncode == 1
        os.close(taken)
        wait_for("the name is free", lambda: links.get(route, tap) is None)
        links.delete(route, "kb65")
        done = lab.hook(tap)
        assert done.returncode == 1 and "no bridge kb65" in done.stderr
    finally:
        os.close(descriptor)


def test_no_other_phase_does_anything(lab: Lab) -> None:
    for operation in ("prepare", "started", "stopped", "release", "migrate", "restore"):
        assert lab.hook(names.tap(new_uid()), operation=operation).returncode == 0
    done = subprocess.run([sys.executable, "-I", "-S", str(HOOK)], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1 and "usage" in done.stderr


def test_taps_are_found_in_what_libvirt_writes() -> None:
    xml = """<domain><description>&lt;target dev='ktfalse'/&gt;</description><devices>
      <disk><target dev='vda' bus='virtio'/></disk>
      <interface type='ethernet'><mac address='02:aa:00:00:00:11'/><target dev='kt0123456789a'/><model type='virtio'/></interface>
      <interface type='ethernet'><target dev='ktabcdef01234'/></interface></devices></domain>"""
    assert hook.taps_of(xml) == ["kt0123456789a", "ktabcdef01234"]


def test_the_hook_imports_little() -> None:
    """libvirt waits for it at each start; these modules alone would take longer than all it does."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); from agent.network import admission, links, netns, hook; print(*sys.modules)"
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-c", script, str(HOOK.parents[2])], capture_output=True, text=True, check=True, timeout=20
    )
    assert not {"dataclasses", "re", "socket", "json", "typing", "pathlib", "threading", "inspect"} & set(done.stdout.split())
