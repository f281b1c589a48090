"""Writes the XML of a domain and reads what Kumo needs from it; pure text, libvirt is not called."""

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from agent.compute.driver import Definition, Disk, FileSource, Nic, RbdSource

NAMESPACE = "https://kumo.cloud/server/1"
# Devices that may be plugged in while the guest runs; q35 cannot grow slots later.
SPARE_PORT_COUNT = 4
TB_CACHE_MIB = 32


@dataclass(frozen=True)
class Owner:
    """What a domain says in its own metadata."""

    uid: str
    generation: int
    epoch: tuple[int, int]
    digest: str
    virt_type: str


def render(definition: Definition, console_log: Path) -> tuple[str, str]:
    """Return the XML and its digest, which stands in its own metadata."""
    devices = _devices(definition, console_log)
    digest = hashlib.sha256(_domain(definition, devices, "").encode()).hexdigest()[:16]
    return _domain(definition, devices, digest), digest


def parse_owner(text: str) -> Owner | None:
    """Return whose the domain is, or None if Kumo did not make it."""
    domain = ElementTree.fromstring(text)
    mark = domain.find(f"metadata/{{{NAMESPACE}}}server")
    if mark is None:
        return None
    epoch = (int(mark.get("cell-epoch", "0")), int(mark.get("host-epoch", "0")))
    return Owner(mark.get("uid", ""), int(mark.get("generation", "0")), epoch, mark.get("digest", ""), domain.get("type", ""))


def secret(user: str) -> str:
    """Return the XML of the secret that holds the key of a Ceph user: never on disk, and never told to anybody."""
    return (
        f"<secret ephemeral='yes' private='yes'><uuid>{secret_uuid(user)}</uuid>"
        f"<usage type='ceph'><name>{escape(f'kumo client.{user}')}</name></usage></secret>"
    )


def secret_uuid(user: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}/ceph/{user}"))


def _domain(definition: Definition, devices: str, digest: str) -> str:
    emulated = definition.virt_type == "qemu"
    # qemu64 is the one model that guests under emulation keep when they move.
    cpu = "<cpu mode='custom' match='exact' check='none'><model>qemu64</model></cpu>" if emulated else "<cpu mode='host-model'/>"
    tcg = f"<tcg><tb-cache unit='MiB'>{TB_CACHE_MIB}</tb-cache></tcg>" if emulated else ""
    mark = (
        f"<kumo:server xmlns:kumo={quoteattr(NAMESPACE)} uid={quoteattr(definition.uid)} name={quoteattr(definition.name)}"
        f" project-uid={quoteattr(definition.project_uid)} generation='{definition.generation}'"
        f" cell-epoch='{definition.epoch[0]}' host-epoch='{definition.epoch[1]}' digest='{digest}'/>"
    )
    return (
        f"<domain type='{definition.virt_type}'><name>{definition.uid}</name><uuid>{definition.uid}</uuid>"
        f"<title>{escape(definition.name)}</title><metadata>{mark}</metadata>"
        f"<memory unit='MiB'>{definition.memory_mib}</memory><vcpu>{definition.vcpus}</vcpu>"
        f"<os><type arch='x86_64' machine='q35'>hvm</type></os>"
        f"<features><acpi/><apic/>{tcg}</features>{cpu}<clock offset='utc'/>"
        f"<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>"
        f"<devices>{devices}</devices></domain>"
    )


def _devices(definition: Definition, console_log: Path) -> str:
    # Each virtio device sits in a root port of its own; the generator and the balloon need one each too.
    port_count = len(definition.disks) + len(definition.nics) + 2 + SPARE_PORT_COUNT
    ports = "".join(f"<controller type='pci' index='{index + 1}' model='pcie-root-port'/>" for index in range(port_count))
    disks = "".join(_disk(index, disk) for index, disk in enumerate(definition.disks))
    nics = "".join(_nic(nic) for nic in definition.nics)
    return (
        f"<controller type='pci' index='0' model='pcie-root'/>{ports}<controller type='usb' model='none'/>{disks}{nics}"
        f"<serial type='pty'><log file={quoteattr(str(console_log))} append='on'/><target port='0'/></serial>"
        f"<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='virtio'/>"
    )


def _disk(index: int, disk: Disk) -> str:
    boot = "<boot order='1'/>" if index == 0 else ""
    tail = f"<target dev='vd{chr(ord('a') + index)}' bus='virtio'/><serial>{escape(disk.serial)}</serial>{boot}</disk>"
    match disk.source:
        case FileSource(path):
            return (
                f"<disk type='file' device='disk'><driver name='qemu' type='raw' cache='writeback' discard='unmap'/>"
                f"<source file={quoteattr(path)}/>{tail}"
            )
        case RbdSource(pool, image, monitors, user):
            hosts = "".join(f"<host name={quoteattr(address)} port='{port}'/>" for address, port in monitors)
            return (
                f"<disk type='network' device='disk'><driver name='qemu' type='raw' cache='writeback' discard='unmap'/>"
                f"<auth username={quoteattr(user)}><secret type='ceph' uuid='{secret_uuid(user)}'/></auth>"
                f"<source protocol='rbd' name={quoteattr(f'{pool}/{image}')}>{hosts}</source>{tail}"
            )


def _nic(nic: Nic) -> str:
    # Without `managed`, libvirt makes the tap itself, and its hook moves it into the data plane before QEMU runs.
    return (
        f"<interface type='ethernet'><mac address={quoteattr(nic.mac)}/><target dev={quoteattr(nic.tap)}/>"
        f"<model type='virtio'/><mtu size='{nic.mtu}'/></interface>"
    )
