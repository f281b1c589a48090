"""What each host has, compared with what the cell wants there: domains, kept commands, links, entries, rules, answers to guests. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from agent.network import names
from kumo.api.cell.v1.record_pb2 import Placement
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from tests.flows.audit_kinds import Finding, Kind, both
from tests.flows.picture import HostPicture, Picture


@dataclass(frozen=True)
class _Wanted:
    """What the cell's records say of all hosts."""

    servers: dict[str, Server]
    ports: dict[str, Port]
    networks: dict[str, Network]
    place: dict[str, str]

    def servers_on(self, host: str) -> set[str]:
        return {uid for uid in self.servers if self.place.get(uid) == host}

    def ports_on(self, host: str) -> dict[str, Port]:
        return {uid: port for uid, port in self.ports.items() if self.place.get(port.spec.server_uid) == host}

    def host_of(self, port: Port) -> str:
        return self.place.get(port.spec.server_uid, "")

    def vni(self, port: Port) -> int:
        return self.networks[port.spec.network_uid].spec.vni if port.spec.network_uid in self.networks else 0


def of_hosts(picture: Picture) -> Iterable[Finding]:
    place = {uid: one.host for uid, one in picture.cell.records(Placement).items() if one.host}
    wanted = _Wanted(picture.cell.records(Server), picture.cell.records(Port), picture.cell.records(Network), place)
    yield from _domains(picture, wanted)
    for name, host in picture.hosts.items():
        yield from _kept(name, host, wanted)
        yield from _links(name, host, wanted)
        yield from _fabric(name, host, wanted, picture)
        yield from _rules(name, host, wanted)
        yield from _answers(name, host, wanted)


def _domains(picture: Picture, wanted: _Wanted) -> Iterable[Finding]:
    found: dict[str, list[str]] = {}
    for name, host in picture.hosts.items():
        for uid, runs in host.domains.items():
            found.setdefault(uid, []).append(name)
            server = wanted.servers.get(uid)
            if server is None:
                yield Finding(Kind.DOMAIN_WITHOUT_SERVER, f"{name} {uid}")
            elif wanted.place.get(uid) != name:
                yield Finding(Kind.DOMAIN_ON_ANOTHER_HOST, f"{name} {uid}")
            elif runs != (server.spec.power == Server.RUNNING):
                yield Finding(Kind.DOMAIN_RUNS_AND_SHOULD_NOT if runs else Kind.DOMAIN_SHOULD_RUN, f"{name} {uid}")
        for uid in host.consoles - wanted.servers_on(name):
            yield Finding(Kind.CONSOLE_LOG_WITHOUT_SERVER, f"{name} {uid}")
    for uid in wanted.servers:
        if not found.get(uid):
            yield Finding(Kind.SERVER_WITHOUT_DOMAIN, uid)
        if len(found.get(uid, ())) > 1:
            yield Finding(Kind.TWO_DOMAINS, uid)


def _kept(name: str, host: HostPicture, wanted: _Wanted) -> Iterable[Finding]:
    ports = wanted.ports_on(name)
    there = {
        "servers": wanted.servers_on(name),
        "ports": set(ports),
        "networks": {port.spec.network_uid for port in ports.values()},
    }
    for kind, uids in there.items():
        held = {uid for uid, command in host.kept[kind].items() if command.HasField("desired")}
        yield from both(uids, held, Kind.INTENT_NOT_KEPT, Kind.KEPT_WITHOUT_INTENT, f"{name} {kind}")
        ended = host.kept_files.get(f"{kind}-ended", frozenset())
        gone = host.kept[kind].keys() - held
        for uid in gone - ended:
            yield Finding(Kind.TOMBSTONE_NOT_ACKNOWLEDGED, f"{name} {kind} {uid}")
        for uid in ended - gone:
            yield Finding(Kind.KEPT_BESIDE_NOTHING, f"{name} {kind}-ended {uid}")
        for uid in host.kept_files.get(kind, frozenset()) - host.kept[kind].keys():
            yield Finding(Kind.KEPT_BESIDE_NOTHING, f"{name} {kind} {uid}")
    for kind in ("server-clients", "server-reboots"):
        for uid in host.kept_files.get(kind, frozenset()) - there["servers"]:
            yield Finding(Kind.KEPT_BESIDE_NOTHING, f"{name} {kind} {uid}")
    for uid, command in host.kept["servers"].items():
        server = wanted.servers.get(uid)
        if server is not None and command.HasField("desired") and command.stamp.generation != server.generation:
            yield Finding(Kind.KEPT_DIFFERS, f"{name} {uid}")


def _links(name: str, host: HostPicture, wanted: _Wanted) -> Iterable[Finding]:
    """A tap is there while its guest runs."""
    ports = wanted.ports_on(name)
    off = Server()
    running = {uid: port for uid, port in ports.items() if wanted.servers.get(port.spec.server_uid, off).spec.power == Server.RUNNING}
    taps = {names.tap(uid) for uid in running}
    found = {link for link in host.links if link.startswith(names.TAP)}
    yield from both(taps, found, Kind.PORT_WITHOUT_TAP, Kind.TAP_WITHOUT_PORT, name)
    for uid, port in running.items():
        tap = names.tap(uid)
        if tap in host.links and host.links[tap] != names.bridge(wanted.vni(port)):
            yield Finding(Kind.TAP_ON_ANOTHER_BRIDGE, f"{name} {tap}")
    for link in host.strays:
        yield Finding(Kind.LINK_OUTSIDE_DATA_PLANE, f"{name} {link}")
    numbers = {wanted.vni(port) for port in ports.values()}
    links = {link(vni) for vni in numbers for link in (names.bridge, names.tunnel, names.metadata_leg)}
    yield from both(links, host.links.keys() - found, Kind.NETWORK_WITHOUT_LINK, Kind.LINK_WITHOUT_NETWORK, name)
    spaces = {names.metadata_namespace(vni) for vni in numbers}
    yield from both(spaces, host.namespaces, Kind.NETWORK_WITHOUT_NAMESPACE, Kind.NAMESPACE_WITHOUT_NETWORK, name)


def _fabric(name: str, host: HostPicture, wanted: _Wanted, picture: Picture) -> Iterable[Finding]:
    """Where the ports of other hosts are."""
    numbers = {wanted.vni(port) for port in wanted.ports_on(name).values()}
    others = [port for port in wanted.ports.values() if wanted.host_of(port) not in ("", name) and wanted.vni(port) in numbers]
    right = {(wanted.vni(port), port.spec.mac): picture.tunnels.get(wanted.host_of(port), "") for port in others}
    found = {(vni, mac): far for vni, mac, far in host.far}
    yield from both(set(right), set(found), Kind.PORT_WITHOUT_STATION, Kind.STATION_WITHOUT_PORT, name)
    for vni, mac, far in host.far:
        if right.get((vni, mac), far) != far:
            yield Finding(Kind.STATION_ON_ANOTHER_HOST, f"{name} {vni} {mac} {far}")
    neighbours = {(wanted.vni(port), port.spec.mac, port.spec.address) for port in others}
    yield from both(neighbours, host.neighbours, Kind.PORT_WITHOUT_NEIGHBOUR, Kind.NEIGHBOUR_WITHOUT_PORT, name)
    yield from both(set(right.values()), host.let_in, Kind.HOST_OF_PORT_NOT_LET_IN, Kind.HOST_LET_IN_WITHOUT_PORT, name)


def _rules(name: str, host: HostPicture, wanted: _Wanted) -> Iterable[Finding]:
    right: set[tuple[str, str]] = set()
    for uid, port in wanted.ports_on(name).items():
        tap = names.tap(uid)
        keys = (tap, f"{tap} . {port.spec.mac}", f"{tap} . {port.spec.mac} . {port.spec.address}")
        right |= set(zip(("guarded", "macs", "src4"), keys, strict=True))
    yield from both(right, host.elements, Kind.PORT_WITHOUT_RULE, Kind.RULE_WITHOUT_PORT, name)


def _answers(name: str, host: HostPicture, wanted: _Wanted) -> Iterable[Finding]:
    ports = wanted.ports_on(name)
    right = {
        "servers": wanted.servers_on(name),
        "ports": set(ports),
        "networks": {port.spec.network_uid for port in ports.values()},
        "by": {f"{names.bridge(wanted.vni(port))}/{key}" for port in ports.values() for key in (port.spec.mac, port.spec.address)},
    }
    for kind, things in right.items():
        yield from both(things, host.guest[kind], Kind.THING_WITHOUT_ANSWER, Kind.ANSWER_WITHOUT_THING, f"{name} {kind}")
    for uid in host.guest["ready"] - wanted.servers_on(name):
        yield Finding(Kind.ANSWER_WITHOUT_THING, f"{name} ready {uid}")
