"""The region's tables: which nouns it keeps, by what they are found, and what refers to what."""

from collections.abc import Iterable
from typing import Any

from kumo.api.compute.v1.flavor_pb2 import Flavor
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.cell_pb2 import Cell
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.identity.v1.project_pb2 import Project
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.network.v1.subnet_pb2 import Subnet
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.store.plane import Plane
from kumo.store.record import Reference
from kumo.store.table import Table

# Of all that the region stores. A process refuses a newer one.
FORMAT_VERSION = 1


class Tables:
    """One table a noun, made once a plane."""

    def __init__(self, plane: Plane) -> None:
        self.projects = plane.table(Project)
        self.flavors = plane.table(Flavor)
        self.images = plane.table(Image, indexes={"pool": lambda image: [image.spec.pool_uid]}, references=_image)
        self.networks = plane.table(Network)
        self.subnets = plane.table(Subnet, indexes={"network": lambda subnet: [subnet.spec.network_uid]}, references=_subnet)
        self.ports = plane.table(
            Port,
            indexes={
                "network": lambda port: [port.spec.network_uid],
                "subnet": lambda port: [port.spec.subnet_uid],
                "address": lambda port: [f"{port.spec.subnet_uid}/{port.spec.address}"],
                "server": lambda port: [port.spec.server_uid],
            },
            references=_port,
        )
        self.servers = plane.table(Server, references=_server)
        self.volumes = plane.table(Volume, indexes={"owner": lambda volume: [volume.owner_uid]}, references=_volume)
        self.attachments = plane.table(
            Attachment, indexes={"server": lambda attachment: [attachment.spec.server_uid]}, references=_attachment
        )
        self.pools = plane.table(Pool)
        self.hosts = plane.table(Host, indexes={"cell": lambda host: [host.spec.cell]})
        self.events = plane.table(Event, indexes={"subject": lambda event: [event.subject_uid]})
        self.cells = plane.table(Cell)


def by_kind(tables: Tables) -> dict[str, Table[Any]]:
    """Return the tables of the nouns that cells hold, by the name that orders, facts and held things give them."""
    listed: list[Table[Any]] = [
        tables.pools,
        tables.images,
        tables.networks,
        tables.volumes,
        tables.ports,
        tables.attachments,
        tables.servers,
    ]
    return {table.name: table for table in listed}


def _image(image: Image) -> Iterable[Reference]:
    yield Reference(Pool, image.spec.pool_uid, image.spec.pool, "image.spec.pool")


def _subnet(subnet: Subnet) -> Iterable[Reference]:
    yield Reference(Network, subnet.spec.network_uid, subnet.spec.network, "subnet.spec.network")


def _port(port: Port) -> Iterable[Reference]:
    """That it is plugged into a server keeps neither of them by itself: the server refers to the port."""
    yield Reference(Network, port.spec.network_uid, port.spec.network, "port.spec.network")
    yield Reference(Subnet, port.spec.subnet_uid, port.spec.subnet, "port.spec.subnet")
    yield Reference(Server, port.owner_uid, port.owner, owned=True)


def _server(server: Server) -> Iterable[Reference]:
    spec = server.spec
    yield Reference(Flavor, spec.flavor_uid, spec.flavor, "server.spec.flavor")
    yield Reference(Image, spec.image_uid, spec.image, "server.spec.image")
    yield Reference(Pool, spec.pool_uid, spec.pool, "server.spec.pool")
    for index, nic in enumerate(spec.nics):
        yield Reference(Port, nic.port_uid, nic.port, f"server.spec.nics[{index}].port")


def _volume(volume: Volume) -> Iterable[Reference]:
    yield Reference(Image, volume.spec.image_uid, volume.spec.image, "volume.spec.image")
    yield Reference(Pool, volume.spec.pool_uid, volume.spec.pool, "volume.spec.pool")
    yield Reference(Server, volume.owner_uid, volume.owner, owned=True)


def _attachment(attachment: Attachment) -> Iterable[Reference]:
    yield Reference(Volume, attachment.spec.volume_uid, attachment.spec.volume, "attachment.spec.volume")
    yield Reference(Server, attachment.owner_uid, attachment.owner, owned=True)
