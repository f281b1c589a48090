"""Starts the responder: opens every socket that its files name, while it may, then gives up all rights for good and serves.

usage: python -m agent.guest.main --config FILE
"""

import os
import socket
import sys
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from agent import privileges
from agent.guest.files import GuestFiles
from agent.guest.handover import DHCP, HandoverServer
from agent.guest.server import Server
from agent.guest.sockets import open_dhcp, open_listener
from agent.network import netns
from kumo import seccomp
from kumo.calls import guest_responder
from kumo.log import configure, get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Config:
    """What is in the configuration file; each key is needed and no other is known."""

    directory: str  # of files.py
    plane: str  # the pinned data-plane namespace
    socket: str  # where the agent hands over sockets
    metrics: str  # address:port of /metrics
    uid: int  # who it is once it has opened its sockets; also the group


def read_config(path: Path) -> Config:
    """Raises ValueError with what is wrong in the file."""
    content = tomllib.loads(path.read_text())
    kinds = {one.name: one.type for one in fields(Config)}
    for key in content.keys() ^ kinds.keys():
        raise ValueError(f"{path}: {key} is {'not known' if key in content else 'missing'}")
    for key, value in content.items():
        if not isinstance(value, kinds[key]) or (key == "uid" and value <= 0):  # type: ignore[arg-type]  # they are classes here
            raise ValueError(f"{path}: {key} cannot be {value!r}")
    return Config(**content)


def open_all(server: Server, files: GuestFiles, plane: str) -> None:
    """Listen wherever there is something to listen in. What is not there yet, the agent hands over when it makes it."""
    if netns.is_pinned(plane):
        server.hold(DHCP, open_dhcp(plane))
    for uid, place in files.networks().items():
        try:
            if netns.is_pinned(place.namespace):
                server.hold(place.bridge, open_listener(place.namespace))
        except OSError as error:
            log.warning("network not heard", network=uid, why=str(error))


def become(uid: int) -> None:
    """Give up root, its groups, every capability, and all system calls but a few. Raises PermissionError if anything is left."""
    calls = guest_responder()
    privileges.bound_to(frozenset())
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("CapPrm", "CapEff", "CapAmb", "CapInh", "CapBnd") and int(value, 16):
            raise PermissionError(f"{name} is still {value.strip()}")
    seccomp.install(calls)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "--config":
        print("usage: python -m agent.guest.main --config FILE", file=sys.stderr)
        return 2
    configure("kumo-guest-responder")
    try:
        config = read_config(Path(arguments[1]))
    except (OSError, ValueError) as error:
        log.error("configuration refused", why=str(error))
        return 2
    address, _, port = config.metrics.rpartition(":")
    scrapes = socket.create_server((address, int(port)), backlog=8)
    scrapes.setblocking(False)
    files = GuestFiles(Path(config.directory))
    # It binds before it reads: a network recorded later is handed over by an agent that finds this socket.
    server = Server(files, HandoverServer(Path(config.socket)), scrapes)
    open_all(server, files, config.plane)
    become(config.uid)
    log.info("responder serves", networks=len(files.networks()))
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
