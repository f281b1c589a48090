"""Makes the records that go with a new server: its ports, its root volume and the attachment between them. Pure; stores nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.names import id_of, join, parent_of

_LONGEST_ID = 63
# Of the end of a UUIDv7, which is random.
_TAG_LENGTH = 8


@dataclass(frozen=True)
class Disk:
    """What the root volume has to be."""

    size_gib: int
    pool: str
    pool_uid: str


def child_name(server: Server, collection: str, suffix: str, taken: Sequence[str] = ()) -> str:
    """Return the name of a child: <server>-<suffix>, or with a tag of the server's uid if that is too long or is taken."""
    server_id, parent = id_of(server.name), parent_of(server.name)
    plain = f"{server_id}-{suffix}"
    name = join(parent, collection, plain)
    if len(plain) <= _LONGEST_ID and name not in taken:
        return name
    tag = server.uid.replace("-", "")[-_TAG_LENGTH:]
    kept = server_id[: _LONGEST_ID - len(suffix) - _TAG_LENGTH - 2].rstrip("-")
    return join(parent, collection, f"{kept}-{tag}-{suffix}")


def port_of(server: Server, index: int, network: Network, uid: str, name: str) -> Port:
    """Return the port of one network interface, still without an address; fills in what the server says of it."""
    port = Port(name=name, uid=uid, owner=server.name, owner_uid=server.uid)
    port.spec.network, port.spec.network_uid = network.name, network.uid
    plug(port, server, index)
    return port


def plug(port: Port, server: Server, index: int) -> None:
    """Make `port` the interface of `server` with this index."""
    port.spec.server, port.spec.server_uid = server.name, server.uid
    nic = server.spec.nics[index]
    nic.port, nic.port_uid = port.name, port.uid
    nic.network, nic.network_uid = port.spec.network, port.spec.network_uid


def root_volume_of(server: Server, disk: Disk, uid: str, name: str) -> Volume:
    volume = Volume(name=name, uid=uid, owner=server.name, owner_uid=server.uid)
    volume.spec.size_gib = disk.size_gib
    volume.spec.image, volume.spec.image_uid = server.spec.image, server.spec.image_uid
    volume.spec.pool, volume.spec.pool_uid = disk.pool, disk.pool_uid
    server.spec.root_volume, server.spec.root_volume_uid = name, uid
    return volume


def root_attachment_of(server: Server, volume: Volume, uid: str, name: str) -> Attachment:
    attachment = Attachment(name=name, uid=uid, owner=server.name, owner_uid=server.uid)
    attachment.spec.server, attachment.spec.server_uid = server.name, server.uid
    attachment.spec.volume, attachment.spec.volume_uid = volume.name, volume.uid
    attachment.spec.root = True
    return attachment
