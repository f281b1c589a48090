"""What a server may read about itself, as a tree of texts: EC2's form and OpenStack's. Pure: a path in, an answer out.

Who asks is not told by the request; whoever calls has proven it. Sources: EC2 instance metadata categories, and cloud-init's
documentation of the OpenStack data source.
"""

import json

from agent.guest.files import PortAnswer, ServerMetadata
from agent.guest.http import Response

_EC2_VERSIONS = ("1.0", "2009-04-04", "2021-03-23", "latest")
_OPENSTACK_VERSIONS = ("2015-10-15", "2018-08-27", "latest")

Tree = dict[str, "Tree | str | bytes"]


def respond(path: str, port: PortAnswer, server: ServerMetadata) -> Response:
    """Return the answer to GET of `path`."""
    found: Tree | str | bytes | None = _tree(port, server)
    for part in filter(None, path.split("/")):
        found = found.get(part) if isinstance(found, dict) else None
    if found is None:
        return Response(404, b"not found\n")
    if isinstance(found, dict):
        return Response(200, "\n".join(_listed(name, below) for name, below in found.items()).encode())
    kind = "application/json" if path.endswith(".json") else "text/plain"
    if isinstance(found, bytes):
        kind = "application/octet-stream"
    return Response(200, found.encode() if isinstance(found, str) else found, kind)


def _listed(name: str, below: "Tree | str | bytes") -> str:
    """Return an entry as EC2 lists it: folders with a slash, but public keys with a name."""
    if not isinstance(below, dict):
        return name
    return f"{name}=key-{name}" if "openssh-key" in below else f"{name}/"


def _tree(port: PortAnswer, server: ServerMetadata) -> Tree:
    ec2, openstack = _ec2(port, server), _openstack(port, server)
    tree: Tree = dict.fromkeys(_EC2_VERSIONS, ec2)
    return tree | {"openstack": dict.fromkeys(_OPENSTACK_VERSIONS, openstack)}


def _ec2(port: PortAnswer, server: ServerMetadata) -> Tree:
    interface: Tree = {"device-number": "0", "local-ipv4s": port.address, "mac": port.mac, "local-hostname": server.hostname}
    data: Tree = {
        "hostname": server.hostname,
        "instance-id": port.server_uid,
        "local-hostname": server.hostname,
        "local-ipv4": port.address,
        "mac": port.mac,
        "network": {"interfaces": {"macs": {port.mac: interface}}},
        "placement": {"availability-zone": server.zone},
    }
    if server.ssh_keys:
        data["public-keys"] = {str(index): {"openssh-key": key} for index, key in enumerate(server.ssh_keys)}
    tree: Tree = {"meta-data": data}
    if server.user_data:
        tree["user-data"] = server.user_data
    return tree


def _openstack(port: PortAnswer, server: ServerMetadata) -> Tree:
    meta_data = {
        "uuid": port.server_uid,
        "name": server.hostname,
        "hostname": server.hostname,
        "project_id": server.project_uid,
        "availability_zone": server.zone,
        "launch_index": 0,
        "meta": {**server.labels, "kumo_name": server.name},
        "public_keys": {f"key-{index}": key for index, key in enumerate(server.ssh_keys)},
        "keys": [{"name": f"key-{index}", "type": "ssh", "data": key} for index, key in enumerate(server.ssh_keys)],
    }
    nics = server.nics or ()
    network_data = {
        "links": [
            {"id": f"nic{index}", "type": "phy", "ethernet_mac_address": nic.mac, "mtu": nic.mtu, "vif_id": nic.port_uid}
            for index, nic in enumerate(nics)
        ],
        "networks": [{"id": f"network{index}", "type": "ipv4_dhcp", "link": f"nic{index}"} for index, _ in enumerate(nics)],
        "services": [{"type": "dns", "address": address} for address in port.dns_servers],
    }
    tree: Tree = {"meta_data.json": json.dumps(meta_data), "network_data.json": json.dumps(network_data), "vendor_data.json": "{}"}
    if server.user_data:
        tree["user_data"] = server.user_data
    return tree
