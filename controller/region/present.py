"""What a reader is shown of a record beyond what is stored: a state where no cell has spoken yet, and that a report is old.

Pure: a record goes in, and a record comes out. Nothing shown here is ever written back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from controller.region.network.addresses import Range, parse_range
from kumo.api.compute.v1 import flavor_pb2, server_pb2
from kumo.api.fleet.v1 import host_pb2, pool_pb2
from kumo.api.identity.v1 import project_pb2
from kumo.api.image.v1 import image_pb2
from kumo.api.network.v1 import network_pb2, port_pb2, subnet_pb2
from kumo.api.storage.v1 import attachment_pb2, volume_pb2
from kumo.api.type.v1 import condition_pb2, placement_pb2

M = TypeVar("M", bound=Message)

Server = server_pb2.Server
_TRUE, _FALSE = condition_pb2.Condition.TRUE, condition_pb2.Condition.FALSE
_GONE = (placement_pb2.Share.REFUSED, placement_pb2.Share.ENDED)


@dataclass(frozen=True)
class Silence:
    """A cell that is not heard, and since when."""

    cell: str
    since: Timestamp


def present(record: M, silent: Mapping[str, Silence]) -> M:
    """Return `record`, changed in place, as its readers see it; `silent` are the cells that are not heard, by name."""
    record_: Any = record  # no generated type says that nouns have these fields
    if "status" not in record.DESCRIPTOR.fields_by_name:
        return record
    if (derive := _STATES.get(type(record))) is not None:
        derive(record_)
    _join_conditions(record_.status)
    if silent and (found := _silence_of(record_, silent)) is not None:
        record_.status.conditions.append(_stale(found))
    return record


def live_cells(record: Any) -> list[str]:
    """Return the cells that hold `record` or were told to."""
    if "placement" not in record.status.DESCRIPTOR.fields_by_name:
        return []
    return [share.cell for share in record.status.placement.shares if share.answer not in _GONE]


def _silence_of(record: Any, silent: Mapping[str, Silence]) -> Silence | None:
    cells = [record.spec.cell] if isinstance(record, host_pb2.Host) else live_cells(record)
    return next((silent[cell] for cell in cells if cell in silent), None)


def _join_conditions(status: Any) -> None:
    """Keep the last condition of each type: the region's own come after those of the cell."""
    if len(status.conditions) < 2:
        return
    last = {condition.type: condition for condition in status.conditions}
    if len(last) < len(status.conditions):
        kept = list(last.values())
        del status.conditions[:]
        status.conditions.extend(kept)


def _stale(silence: Silence) -> condition_pb2.Condition:
    since = silence.since.ToJsonString()
    return condition_pb2.Condition(
        type="Fresh",
        status=_FALSE,
        reason="STALE",
        message=f"this is what was so at {since}; nothing has been heard since",
        fix="wait: what runs goes on, and the report follows when the control plane of this place is back",
        since=silence.since,
        operator_message=f"cell {silence.cell} has not been heard since {since}",
    )


def _server(server: Server) -> None:
    """Show at once what was asked for: the cell says it a moment later."""
    status = server.status
    if status.state in (Server.FAILED, Server.DELETING):
        return
    if server.HasField("delete_time"):
        status.state = Server.DELETING
    elif status.state == Server.STATE_UNSPECIFIED:
        status.state = Server.CREATING
    elif status.observed_generation < server.generation:
        status.state = _asked_state(server)


def _asked_state(server: Server) -> "server_pb2.Server.State.ValueType":
    state, spec = server.status.state, server.spec
    if spec.power == Server.OFF and state in (Server.ACTIVE, Server.STARTING, Server.REBOOTING):
        return Server.STOPPING
    if spec.power == Server.RUNNING and state in (Server.STOPPED, Server.STOPPING):
        return Server.STARTING
    if spec.power == Server.RUNNING and state == Server.ACTIVE and spec.reboots > server.status.reboots:
        return Server.REBOOTING
    return state


def _port(port: port_pb2.Port) -> None:
    if port.status.state == port_pb2.Port.STATE_UNSPECIFIED or not port.spec.server_uid:
        port.status.state = port_pb2.Port.BINDING if port.spec.server_uid else port_pb2.Port.DOWN


def _subnet(subnet: subnet_pb2.Subnet) -> None:
    addresses: Range = parse_range(subnet.spec.cidr, subnet.spec.gateway)
    subnet.status.address_count = addresses.count
    subnet.status.observed_generation = subnet.generation


def _at_rest(record: Any) -> None:
    """A noun that nothing has to be done for is as its intent says."""
    record.status.observed_generation = record.generation


def _starting_as(
    initial: int, deleting: int, final: tuple[int, ...] = (), then: Callable[[Any], None] | None = None
) -> Callable[[Any], None]:
    """Show `initial` while nothing is reported, and `deleting` as soon as the end was asked for, unless the state is a final one."""

    def derive(record: Any) -> None:
        if then is not None:
            then(record)
        if record.HasField("delete_time") and record.status.state not in final:
            record.status.state = deleting
        elif record.status.state == 0:
            record.status.state = initial

    return derive


_Flavor, _Project, _Network, _Subnet = flavor_pb2.Flavor, project_pb2.Project, network_pb2.Network, subnet_pb2.Subnet
_Port, _Volume, _Attachment = port_pb2.Port, volume_pb2.Volume, attachment_pb2.Attachment
_Image, _Pool, _Host = image_pb2.Image, pool_pb2.Pool, host_pb2.Host

_STATES: dict[type[Message], Callable[[Any], None]] = {
    _Project: _starting_as(_Project.ACTIVE, _Project.DELETING, then=_at_rest),
    _Flavor: _starting_as(_Flavor.ACTIVE, _Flavor.DELETING, then=_at_rest),
    _Network: _starting_as(_Network.ACTIVE, _Network.DELETING),
    _Subnet: _starting_as(_Subnet.ACTIVE, _Subnet.DELETING, then=_subnet),
    _Port: _starting_as(_Port.DOWN, _Port.DELETING, then=_port),
    _Volume: _starting_as(_Volume.CREATING, _Volume.DELETING, (_Volume.FAILED,)),
    _Attachment: _starting_as(_Attachment.ATTACHING, _Attachment.DETACHING),
    _Image: _starting_as(_Image.PENDING, _Image.DELETING, (_Image.FAILED,)),
    _Pool: _starting_as(_Pool.UNAVAILABLE, _Pool.DELETING),
    _Host: _starting_as(_Host.JOINING, _Host.DELETING),
    Server: _server,
}
