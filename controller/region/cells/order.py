"""Makes the orders that travel to a cell: the whole desired state of one thing, without what only the region keeps. Pure."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from kumo.api.cell.v1 import cell_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.network.v1.subnet_pb2 import Subnet
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp

# The nouns that cells hold, by the name that orders, facts and held things give them. A server comes last: what it needs is
# there before it, so that the cell has to wait for less.
KINDS: dict[str, type[Message]] = {
    "pool": Pool,
    "image": Image,
    "network": Network,
    "volume": Volume,
    "port": Port,
    "attachment": Attachment,
    "server": Server,
}
KIND_OF: dict[type[Message], str] = {kind: name for name, kind in KINDS.items()}
_KEPT_BY_THE_REGION = ("status", "etag")


@dataclass(frozen=True)
class Beside:
    """What an order says besides the thing itself."""

    subnets: tuple[Subnet, ...] = ()
    user_data: bytes = b""
    project_uid: str = ""


NOTHING = Beside()


def order(record: Message, beside: Beside = NOTHING, *, withdrawn: bool = False) -> cell_pb2.ApplyIntentRequest:
    """Return the command, still without its stamp."""
    kind = KIND_OF[type(record)]
    request = cell_pb2.ApplyIntentRequest(uid=_any(record).uid, withdrawn=withdrawn)
    target = getattr(request, kind)
    getattr(target, kind).CopyFrom(intent_alone(record))
    if isinstance(record, Server):
        request.server.user_data, request.server.project_uid = beside.user_data, beside.project_uid
    elif isinstance(record, Network):
        request.network.subnets.extend(intent_alone(subnet) for subnet in beside.subnets)
    return request


def intent_alone(record: Any) -> Any:
    """Return a copy with what was asked for alone."""
    copy = type(record)()
    copy.CopyFrom(record)
    for field in _KEPT_BY_THE_REGION:
        if field in copy.DESCRIPTOR.fields_by_name:
            copy.ClearField(field)
    return copy


def is_settled(held: Stamp, epoch: int, generation: int) -> bool:
    """True if a cell that holds a thing under `held` has been told this already."""
    return held.epoch.cell == epoch and held.generation >= generation


def is_ahead(held: Stamp, epoch: int, generation: int) -> bool:
    """True if a cell holds something later than the region knows of: the region's store went back in time."""
    return (held.epoch.cell, held.generation) > (epoch, generation)


def epoch_of(cell_epoch: int) -> Epoch:
    return Epoch(cell=cell_epoch)


def _any(record: Message) -> Any:
    """Every noun has a uid, which no common type of theirs says."""
    return record
