"""Says what the agent of one host is told of a network: itself, and where its ports on other hosts are. Pure."""

from collections.abc import Iterable
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


def desired_network(
    network: Network, subnets: Iterable[Subnet], placed: Iterable[PlacedPort], host_uid: str, underlay_mtu: int
) -> DesiredNetwork:
    """Return the desired state on `host_uid`; in one order, so that nothing is told twice."""
    remotes = [
        RemotePort(mac=one.port.spec.mac, addresses=[one.port.spec.address], tunnel_address=one.tunnel_address)
        for one in placed
        if one.host_uid != host_uid
    ]
    return DesiredNetwork(
        name=network.name,
        vni=network.spec.vni,
        mtu=network_mtu(network, underlay_mtu),
        cidrs=sorted(subnet.spec.cidr for subnet in subnets),
        remotes=sorted(remotes, key=lambda remote: remote.mac),
    )
