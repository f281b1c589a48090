"""Turns commands into what a network or a port shall be, and refuses what the contract's field rules cannot see. Touches nothing."""

from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from agent.guest.files import PortAnswer
from agent.network import names
from agent.network.plan import Answer, Network, Port, Remote
from kumo.api.agent.v1.network_pb2 import ApplyNetworkRequest, ApplyPortRequest, DesiredNetwork, DesiredPort
from kumo.errors import FailedPrecondition, InvalidArgument


def network(uid: str, desired: DesiredNetwork) -> Network:
    remotes = frozenset(Remote(remote.mac, tuple(remote.addresses), remote.tunnel_address) for remote in desired.remotes)
    cidrs = tuple(sorted({str(IPv4Network(cidr, strict=False)) for cidr in desired.cidrs}))
    return Network(uid, desired.vni, desired.mtu, cidrs, remotes)


def port(uid: str, desired: DesiredPort, on: DesiredNetwork) -> Port:
    return Port(
        uid=uid,
        network_uid=desired.network_uid,
        vni=on.vni,
        mtu=on.mtu,
        mac=desired.mac,
        address=desired.address,
        prefix_length=desired.prefix_length,
        server_uid=desired.server_uid,
        gateway=desired.gateway,
        dns_servers=tuple(desired.dns_servers),
        hostname=desired.hostname,
    )


def answer(port: Port) -> PortAnswer:
    """Return what the responder tells a port's guest."""
    return PortAnswer(
        uid=port.uid,
        bridge=names.bridge(port.vni),
        tap=port.tap,
        mac=port.mac,
        address=port.address,
        prefix_length=port.prefix_length,
        gateway=port.gateway,
        dns_servers=port.dns_servers,
        hostname=port.hostname,
        mtu=port.mtu,
        server_uid=port.server_uid,
    )


def compare(wanted: PortAnswer, found: PortAnswer | None, is_whole: bool) -> Answer:
    """Say what is told at present. Only another identity makes it OTHER; all else is written over."""
    if found is None:
        return Answer.NOTHING
    if (found.bridge, found.mac, found.address) != (wanted.bridge, wanted.mac, wanted.address):
        return Answer.OTHER
    return Answer.RIGHT if is_whole else Answer.NOTHING


def check_network(command: ApplyNetworkRequest, held: Mapping[str, ApplyNetworkRequest]) -> None:
    """Raise if the command cannot be obeyed beside the others that are held."""
    if not command.HasField("desired"):
        return
    for uid, other in held.items():
        if uid != command.uid and other.HasField("desired") and other.desired.vni == command.desired.vni:
            raise FailedPrecondition(
                "VNI_TAKEN",
                f"VXLAN {command.desired.vni} is network {uid} on this host",
                field="desired.vni",
                fix="remove that network from this host first",
                network=uid,
            )


def check_port(command: ApplyPortRequest, held: Mapping[str, ApplyPortRequest]) -> None:
    """Raise if the command cannot be obeyed beside the others that are held."""
    if not command.HasField("desired"):
        return
    tap = names.tap(command.uid)
    for uid, other in held.items():
        if uid != command.uid and names.tap(uid) == tap:
            raise FailedPrecondition(
                "TAP_NAME_TAKEN",
                f"ports {uid} and {command.uid} would have the same tap name {tap}",
                fix="make another port in the place of this one",
                port=uid,
            )
        if uid != command.uid and other.HasField("desired") and _same_place(other.desired, command.desired):
            raise FailedPrecondition(
                "ADDRESS_TAKEN",
                f"port {uid} of this host has {command.desired.address} or {command.desired.mac} in this network",
                field="desired.address",
                fix="remove that port from this host first",
                port=uid,
            )
    _check_addresses(command.desired)


def _same_place(one: DesiredPort, other: DesiredPort) -> bool:
    return one.network_uid == other.network_uid and (one.address == other.address or one.mac == other.mac)


def _check_addresses(desired: DesiredPort) -> None:
    if int(desired.mac[:2], 16) & 1:
        raise InvalidArgument("MAC_MULTICAST", f"{desired.mac} is a multicast address", field="desired.mac")
    for path, value in (("desired.gateway", desired.gateway), *(("desired.dns_servers", dns) for dns in desired.dns_servers)):
        try:
            if value:
                IPv4Address(value)
        except (AddressValueError, NetmaskValueError) as error:
            raise InvalidArgument("ADDRESS_INVALID", f"{value!r} is no IPv4 address", field=path) from error
