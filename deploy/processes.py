"""Kumo's own processes in a lab: the configuration of each, and how it is started. Knows nothing of what they do.

The controller runs both planes as a user of its own, in one process, or in two where a lab has several controllers. The agent keeps
root with few capabilities (deploy/rights.py). The guest responder opens its sockets as root and gives all of it up itself. Inside the
lab /run ends with the host's boot, so what must end with it is there.
"""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.control import Service
from deploy.etcd_binary import Etcd
from deploy.files import make_directory, write
from deploy.layout import LOOPBACK, Lab, Port, Role, Storage, User, bracketed
from deploy.rights import service

RUN = Path("/run/kumo")
NAMESPACES = RUN / "netns"
HEALTH_S = 2.0
CONTROLLER = "kumo-controller"
REGION, CELL = "kumo-controller-region", "kumo-controller-cell"
METRICS = {
    "kumo-guest-responder": Port.GUEST_METRICS,
    "kumo-agent": Port.AGENT_METRICS,
    CONTROLLER: Port.CONTROLLER_METRICS,
}


@dataclass(frozen=True)
class Peers:
    """What a controller has to know of other nodes: where the store is, and the cell's controllers, host: address."""

    store: tuple[str, ...]
    controllers: Mapping[str, str]


def alone(lab: Lab) -> Peers:
    """Return what there is where one node is all."""
    return Peers((lab.address(Port.ETCD_CLIENT),), {lab.host: lab.address(Port.CELL)})


def toml(tables: dict[str, dict[str, object]]) -> str:
    """Return TOML of strings, numbers, booleans, lists and one level of tables; the table "" comes first."""
    lines = []
    for table, values in tables.items():
        if table:
            lines.append(f"\n[{table}]")
        lines += [f"{key} = {_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _controller(lab: Lab, etcd: Etcd, peers: Peers, metrics: Port, *, region: bool, cell: bool) -> str:
    store = {"store": list(peers.store), "lab": not etcd.is_good}
    tables: dict[str, dict[str, object]] = {
        "": {"region": lab.region, "host": lab.host, "tls": lab.controller / "tls", "metrics": lab.address(metrics)}
    }
    if region:
        advertise = f"{bracketed(lab.addresses.management)}:{lab.port(Port.API)}"
        tables["region_plane"] = {"listen": lab.address(Port.API), "advertise": advertise, **store}
        tables[f"region_plane.cells.{lab.cell}"] = dict(peers.controllers)
    if cell:
        tables["cell_plane"] = {"name": lab.cell, "listen": lab.address(Port.CELL), "underlay_mtu": _underlay_mtu(lab), **store}
    return toml(tables)


def _underlay_mtu(lab: Lab) -> int:
    """Return what tunnels carry: as IPv4 counts, so 20 less where the outer header is IPv6's."""
    return 1480 if ":" in lab.addresses.tunnel else 1500


def _agent(lab: Lab) -> str:
    return toml(
        {
            "": {
                "region": lab.region,
                "cell": lab.cell,
                "host": lab.host,
                "listen": lab.address(Port.AGENT),
                "metrics": lab.address(Port.AGENT_METRICS),
                "tls": lab.agent / "tls",
                "state": lab.agent,
            },
            "network": {
                "tunnel_address": lab.addresses.tunnel,
                "tunnel_port": lab.port(Port.TUNNEL),
                "namespaces": NAMESPACES,
                "guest_files": lab.guest / "answers",
                "responder": RUN / "responder.sock",
                "guest_gid": User.GUEST,
            },
            "storage": _storage(lab),
        }
    )


def _storage(lab: Lab) -> dict[str, object]:
    if lab.storage is Storage.FILE:
        return {"directory": lab.files}
    return {"ceph_conf": lab.agent / "ceph" / "ceph.conf", "ceph_user": f"client.agent-{lab.host}"}


def _responder(lab: Lab) -> str:
    return toml(
        {
            "": {
                "directory": lab.guest / "answers",
                "plane": NAMESPACES / "dp",
                "socket": RUN / "responder.sock",
                "metrics": lab.address(Port.GUEST_METRICS),
                "uid": User.GUEST,
            }
        }
    )


def prepare(lab: Lab, etcd: Etcd) -> None:
    """Write every configuration of a lab of one node, and the context with which the CLI finds it."""
    prepare_controller(lab, etcd)
    prepare_host(lab)
    write_context(lab)


def prepare_controller(lab: Lab, etcd: Etcd) -> None:
    """Write the configuration of one controller of both planes."""
    text = _controller(lab, etcd, alone(lab), Port.CONTROLLER_METRICS, region=True, cell=True)
    write(lab.controller / "config.toml", text, User.CONTROLLER, 0o640)


def prepare_host(lab: Lab) -> None:
    """Write the configurations of the processes that every host has."""
    make_directory(lab.guest)
    make_directory(lab.guest / "answers", User.GUEST, 0o750)
    write(lab.agent / "config.toml", _agent(lab))
    write(lab.guest / "config.toml", _responder(lab))


def prepare_planes(lab: Lab, etcd: Etcd, peers: Peers) -> None:
    """Write the configurations of two controllers, one for each plane."""
    region = _controller(lab, etcd, peers, Port.CONTROLLER_METRICS, region=True, cell=False)
    cell = _controller(lab, etcd, peers, Port.CELL_METRICS, region=False, cell=True)
    write(lab.controller / "region.toml", region, User.CONTROLLER, 0o640)
    write(lab.controller / "cell.toml", cell, User.CONTROLLER, 0o640)


def write_context(lab: Lab) -> None:
    context = f'{{address: "{lab.address(Port.API)}", ca: {lab.cli}/ca.crt, server_name: localhost, project: default}}'
    write(lab.cli / "context.yaml", f"current: {lab.region}\ncontexts:\n  {lab.region}: {context}\n")


def services(lab: Lab) -> list[Service]:
    """In the order of their start; the last is stopped first."""
    return [*host_services(lab), _service(lab, CONTROLLER, "controller.main", lab.controller / "config.toml")]


def host_services(lab: Lab) -> list[Service]:
    return [
        _service(lab, "kumo-guest-responder", "agent.guest.main", lab.guest / "config.toml"),
        _service(lab, "kumo-agent", "agent.main", lab.agent / "config.toml", umask=0o022),
    ]


def plane_services(lab: Lab) -> list[Service]:
    return [_service(lab, name, "controller.main", lab.controller / file) for name, file in ((CELL, "cell.toml"), (REGION, "region.toml"))]


def node_services(lab: Lab) -> list[Service]:
    """Return Kumo's processes of one node of several."""
    return [
        *(host_services(lab) if Role.HOST in lab.roles else []),
        *(plane_services(lab) if Role.CONTROLLER in lab.roles else []),
    ]


def _service(lab: Lab, name: str, module: str, config: Path, umask: int = 0o077) -> Service:
    # One arena: with many threads, what glibc keeps in each for later costs the agent 20 MiB, and the lock is not contended.
    env = {"MALLOC_ARENA_MAX": "1"}
    return service(name, [str(lab.python), "-I", "-m", module, "--config", str(config)], nofile=16384, env=env, umask=umask)


def is_alive(lab: Lab, port: Port) -> bool:
    """Whether the process that has its metrics on `port` answers."""
    connection = http.client.HTTPConnection(LOOPBACK, lab.port(port), timeout=HEALTH_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
