"""Says what the agent of each host is told of a network: itself, and where its ports on other hosts are. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from controller.cell.compute.server.desired import network_mtu
from kumo.api.agent.v1.network_pb2 import DesiredNetwork, RemotePort
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.network.v1.subnet_pb2 import Subnet


@dataclass(frozen=True)
class PlacedPort:
    """A port whose server is placed, with the uid and the tunnel address of the host."""

    port: Port
    host_uid: str
    tunnel_address: str


def desired_by_host(
    network: Network, subnets: Iterable[Subnet], placed: Collection[PlacedPort], underlay_mtu: int
) -> dict[str, DesiredNetwork]:
    """Return the desired state on each host that has one of `placed`; in one order, so that nothing is told twice."""
    common = DesiredNetwork(
        name=network.name,
        vni=network.spec.vni,
        mtu=network_mtu(network, underlay_mtu),
        cidrs=sorted(subnet.spec.cidr for subnet in subnets),
    )
    remotes = [
        (one.host_uid, RemotePort(mac=one.port.spec.mac, addresses=[one.port.spec.address], tunnel_address=one.tunnel_address))
        for one in sorted(placed, key=lambda one: one.port.spec.mac)
    ]
    found = {}
    for host_uid in {one.host_uid: None for one in placed}:
        desired = found[host_uid] = DesiredNetwork()
        desired.CopyFrom(common)
        desired.remotes.extend(remote for where, remote in remotes if where != host_uid)
    return found
