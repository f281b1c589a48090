"""A real libvirtd with the hook in front of a real QEMU: the tap is plugged in before the guest runs, or the guest does not start."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from agent.network import names
from kumo.ids import new_uid
from tests.agent.network.lab import CHECKOUT, HOOK
from tests.agent.network.rig import Rig, kernel_driver
from tests.libvirt_host import LibvirtHost, running_libvirt

MAC, VNI = "02:aa:00:00:00:11", 0x41


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with running_libvirt() as running:
        hooks = running.directory / "etc" / "hooks"
        hooks.mkdir()
        (hooks / "qemu").write_text(f'#!/bin/sh\nexec /usr/bin/python3 -I -S {HOOK} --state {running.directory}/network "$@"\n')
        (hooks / "qemu").chmod(0o755)
        running.kill_libvirtd()  # it looks for hooks when it starts
        yield running


def inside(host: LibvirtHost, *command: str) -> str:
    """Run a command where libvirtd runs."""
    entered = ["nsenter", f"--target={host.init_pid}", "--mount", "--net", "--pid", f"--wd={CHECKOUT}", *command]
    done = subprocess.run(entered, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_plane(host: LibvirtHost, *command: str) -> str:
    return inside(host, "nsenter", f"--net={host.directory}/ns/dp", *command)


def connect(host: LibvirtHost) -> libvirt.virConnect:
    for _ in range(200):
        try:
            return libvirt.open(host.uri)
        except libvirt.libvirtError:
            subprocess.run(["sleep", "0.05"], check=True)
    raise TimeoutError("libvirtd")


def xml(host: LibvirtHost, name: str, tap: str) -> str:
    disk = host.stub_disk(name)
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
      <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
      <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
      <interface type='ethernet'><mac address='{MAC}'/><target dev='{tap}'/><model type='virtio'/></interface></devices></domain>"""


async def put_port(directory: Path) -> str:
    """Leave commands on the disk for an agent that starts later."""
    rig = Rig(directory, kernel_driver(directory, directory / "ns"), responder=directory / "nobody.sock")
    network, port = new_uid(), new_uid()
    await rig.put_network(network, VNI)
    await rig.put_port(port, network, MAC, "10.0.0.11")
    await rig.network.close()
    rig.files.close()
    return port


async def test_a_guest_is_plugged_in_before_it_runs_and_unplugged_when_it_ends(host: LibvirtHost) -> None:
    port = await put_port(host.directory)
    tap = names.tap(port)
    await asyncio.to_thread(inside, host, sys.executable, "-m", "tests.agent.network.killed_agent", str(host.directory), "1", "0")

    def story() -> None:
        connection = connect(host)
        domain = connection.createXML(xml(host, "plugged", tap))
        shown = in_plane(host, "ip", "-br", "link", "show", "master", names.bridge(VNI))
        assert tap in shown and "UP" in shown
        assert MAC in in_plane(host, "bridge", "fdb", "show", "dev", tap)
        assert tap not in inside(host, "ip", "-br", "link")
        domain.destroy()
        assert tap not in in_plane(host, "ip", "-br", "link")
        connection.close()

    await asyncio.to_thread(story)


async def test_a_guest_whose_port_is_not_bound_does_not_start(host: LibvirtHost) -> None:
    def story() -> None:
        connection = connect(host)
        with pytest.raises(libvirt.libvirtError, match="no port whose rules are in force"):
            connection.createXML(xml(host, "refused", names.tap(new_uid())))
        assert not connection.listAllDomains()
        connection.close()

    await asyncio.to_thread(story)
