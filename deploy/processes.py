"""Kumo's own processes in a lab: the configuration of each, and how it is started. Knows nothing of what they do.

The controller runs both planes as a user of its own. The agent keeps root with few capabilities (deploy/rights.py). The guest responder
opens its sockets as root and gives all of it up itself. Inside the lab /run ends with the host's boot, so what must end with it is there.
"""

import http.client
from pathlib import Path

from deploy.control import Service
from deploy.etcd_binary import Etcd
from deploy.files import make_directory, write
from deploy.layout import Lab, Port, User
from deploy.rights import service

RUN = Path("/run/kumo")
NAMESPACES = RUN / "netns"
HEALTH_S = 2.0
CONTROLLER = "kumo-controller"
METRICS = {
    "kumo-guest-responder": Port.GUEST_METRICS,
    "kumo-agent": Port.AGENT_METRICS,
    CONTROLLER: Port.CONTROLLER_METRICS,
}


def _toml(tables: dict[str, dict[str, object]]) -> str:
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


def _controller(lab: Lab, etcd: Etcd) -> str:
    store = {"store": [lab.address(Port.ETCD_CLIENT)], "lab": not etcd.is_good}
    return _toml(
        {
            "": {
                "region": lab.region,
                "host": lab.host,
                "tls": lab.controller / "tls",
                "metrics": lab.address(Port.CONTROLLER_METRICS),
            },
            "region_plane": {"listen": lab.address(Port.API), **store},
            f"region_plane.cells.{lab.cell}": {lab.host: lab.address(Port.CELL)},
            "cell_plane": {"name": lab.cell, "listen": lab.address(Port.CELL), **store},
        }
    )


def _agent(lab: Lab) -> str:
    return _toml(
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
                "tunnel_address": "127.0.0.1",
                "tunnel_port": lab.port(Port.TUNNEL),
                "namespaces": NAMESPACES,
                "guest_files": lab.guest / "answers",
                "responder": RUN / "responder.sock",
                "guest_gid": User.GUEST,
            },
            "storage": {"ceph_conf": lab.agent / "ceph" / "ceph.conf", "ceph_user": f"client.agent-{lab.host}"},
        }
    )


def _responder(lab: Lab) -> str:
    return _toml(
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
    """Write every configuration, and the context with which the CLI finds this lab."""
    make_directory(lab.guest)
    make_directory(lab.guest / "answers", User.GUEST, 0o750)
    write(lab.controller / "config.toml", _controller(lab, etcd), User.CONTROLLER, 0o640)
    write(lab.agent / "config.toml", _agent(lab))
    write(lab.guest / "config.toml", _responder(lab))
    context = f'{{address: "{lab.address(Port.API)}", ca: {lab.cli}/ca.crt, server_name: localhost, project: default}}'
    write(lab.cli / "context.yaml", f"current: {lab.region}\ncontexts:\n  {lab.region}: {context}\n")


def services(lab: Lab) -> list[Service]:
    """In the order of their start; the last is stopped first."""
    # One arena: with many threads, what glibc keeps in each for later costs the agent 20 MiB, and the lock is not contended.
    env = {"MALLOC_ARENA_MAX": "1"}

    def one(name: str, module: str, directory: Path, umask: int = 0o077) -> Service:
        argv = [str(lab.python), "-I", "-m", module, "--config", str(directory / "config.toml")]
        return service(name, argv, nofile=16384, env=env, umask=umask)

    return [
        one("kumo-guest-responder", "agent.guest.main", lab.guest),
        one("kumo-agent", "agent.main", lab.agent, umask=0o022),
        one(CONTROLLER, "controller.main", lab.controller),
    ]


def is_alive(lab: Lab, port: Port) -> bool:
    """Whether the process that has its metrics on `port` answers."""
    connection = http.client.HTTPConnection("127.0.0.1", lab.port(port), timeout=HEALTH_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
