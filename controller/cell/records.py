"""The tables of a cell and what they can be searched by; wiring only."""

from collections.abc import Iterable

from controller.cell.ledger import Ledger
from kumo.api.cell.v1 import record_pb2
from kumo.api.cell.v1.cell_pb2 import Verdict
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume

Ordered = Server | Volume | Attachment | Port | Network | Image | Pool


class Records:
    """Every table of a cell. `orders`, `placements`, `ends` and `stagings` lie under the uid of the thing they are about."""

    def __init__(self, ledger: Ledger) -> None:
        self.servers = ledger.add(Server, {"port": _ports_of, "image": lambda server: [server.spec.image_uid]})
        self.volumes = ledger.add(
            Volume,
            {
                "owner": lambda volume: [volume.owner_uid],
                "image": lambda volume: [volume.spec.image_uid],
                "pool": lambda volume: [volume.spec.pool_uid],
            },
        )
        self.attachments = ledger.add(
            Attachment, {"server": lambda one: [one.spec.server_uid], "volume": lambda one: [one.spec.volume_uid]}
        )
        self.ports = ledger.add(Port, {"server": lambda port: [port.spec.server_uid], "network": lambda port: [port.spec.network_uid]})
        self.networks = ledger.add(Network)
        self.images = ledger.add(Image, {"pool": lambda image: [image.spec.pool_uid]})
        self.pools = ledger.add(Pool)
        self.hosts = ledger.add(Host, {"name": lambda host: [host.name]})
        self.events = ledger.add(Event, {"subject": lambda event: [event.subject_uid]})
        self.orders = ledger.add(record_pb2.Order)
        self.obeyed = ledger.add(record_pb2.Obeyed)
        self.placements = ledger.add(record_pb2.Placement, {"host": lambda placement: [placement.host_uid], "waiting": _is_waiting})
        self.claims = ledger.add(record_pb2.Claim, {"host": lambda claim: [claim.host_uid], "server": lambda claim: [claim.server_uid]})
        self.bookings = ledger.add(record_pb2.Booking)
        self.ends = ledger.add(record_pb2.End)
        self.stagings = ledger.add(record_pb2.Staging)
        self.carriers = ledger.add(record_pb2.Carriers, {"host": lambda carriers: carriers.host_uids})
        self.policies = ledger.add(record_pb2.PlacementPolicy)


def _is_waiting(placement: record_pb2.Placement) -> Iterable[str]:
    return ["yes"] if placement.verdict.answer == Verdict.WAITING else []


def _ports_of(server: Server) -> Iterable[str]:
    return (nic.port_uid for nic in server.spec.nics)
