"""Says what an agent is told of a server, from the records of the server and of what belongs to it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from kumo.api.agent.v1.compute_pb2 import DesiredDisk, DesiredNic, DesiredServer
from kumo.api.agent.v1.storage_pb2 import PoolReference
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume

# What VXLAN adds to each packet, over IPv4.
TUNNEL_BYTES = 50

_DRIVERS = {Pool.RBD: "rbd", Pool.FAKE: "fake", Pool.FILE: "file"}


@dataclass(frozen=True)
class Parts:
    """What belongs to a server and is known in the cell: `disks` with the root disk first, `ports` in the order of its interfaces."""

    disks: tuple[tuple[Volume, Pool], ...] = ()
    ports: tuple[tuple[Port, Network], ...] = ()
    # Uids of what the server names and is not known.
    missing: tuple[str, ...] = field(default=())


def pool_reference(pool: Pool) -> PoolReference:
    driver = _DRIVERS.get(pool.spec.driver, "")
    return PoolReference(uid=pool.uid, driver=driver, volume_pool=pool.spec.volume_pool, image_pool=pool.spec.image_pool)


def network_mtu(network: Network, underlay_mtu: int) -> int:
    return network.spec.mtu or underlay_mtu - TUNNEL_BYTES


def in_order(attachments: Iterable[Attachment]) -> list[Attachment]:
    """Return the attachments as the guest sees the disks: the root disk first, then as they were made."""
    return sorted(attachments, key=lambda attachment: (not attachment.spec.root, attachment.uid))


def desired_server(server: Server, project_uid: str, parts: Parts, underlay_mtu: int) -> DesiredServer:
    """Return the whole desired state but its user data, which is a secret and comes in when it is sent."""
    project, server_id = server.name.split("/")[1], server.name.split("/")[-1]
    return DesiredServer(
        name=server.name,
        hostname=server_id,
        vcpus=server.spec.vcpus,
        memory_mib=server.spec.memory_mib,
        disks=[DesiredDisk(volume_uid=volume.uid, pool=pool_reference(pool)) for volume, pool in parts.disks],
        nics=[DesiredNic(port_uid=port.uid, mac=port.spec.mac, mtu=network_mtu(network, underlay_mtu)) for port, network in parts.ports],
        running=server.spec.power != Server.OFF,
        reboots=server.spec.reboots,
        hard=server.spec.hard,
        ssh_keys=server.spec.ssh_keys,
        project_uid=project_uid,
        project=project,
        labels=server.labels,
    )
