"""Says what an agent is told of a port. Pure."""

from kumo.api.agent.v1.network_pb2 import DesiredPort
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.network.v1.subnet_pb2 import Subnet


def desired_port(port: Port, subnet: Subnet) -> DesiredPort:
    return DesiredPort(
        name=port.name,
        network_uid=port.spec.network_uid,
        mac=port.spec.mac,
        address=port.spec.address,
        prefix_length=port.spec.prefix_length,
        gateway=subnet.spec.gateway,
        dns_servers=subnet.spec.dns_servers,
        hostname=port.spec.server.split("/")[-1],
        server_uid=port.spec.server_uid,
    )
