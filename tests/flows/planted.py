"""Plants discrepancies of every kind in a lab, all at once, and takes them out again.

Whatever would repair them must stand still meanwhile. Nothing of a server that runs is harmed but the way to its guest.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import libvirt
import rbd
from google.protobuf.message import Message
from uuid_utils import uuid7

from agent.network import names
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest
from kumo.api.agent.v1.network_pb2 import ApplyPortRequest
from kumo.api.cell.v1.record_pb2 import Carriers, Claim, End, Order, Placement, Staging
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.store.etcd.rpc_pb2 import DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse
from kumo.store.keys import Keys
from kumo.store.record import table_name
from kumo.store.v1.values_pb2 import Usage
from storage.block.names import mark_object, volume_name
from storage.mark import Mark, text_of
from tests.flows.audit_kinds import Kind
from tests.flows.hosts import Hosts
from tests.flows.picture import Picture, call_store, take

GHOST_MAC, GHOST_ADDRESS, NOBODY = "02:6b:00:00:00:99", "10.0.255.77", "10.90.0.199"


class Garden:
    """A lab with two servers, `first` on h1 and `second` on h2, and what was planted in it: kind → a word that tells it."""

    def __init__(self, hosts: Hosts, first: str, second: str) -> None:
        self.hosts, self.first, self.second = hosts, first, second
        self.before: Picture = take(hosts)
        self.planted: dict[Kind, str] = {}
        self._undo = ExitStack()
        self.port = {one.spec.server_uid: one for one in self.before.cell.records(Port).values()}
        self.disk = {one.owner_uid: one.uid for one in self.before.cell.records(Volume).values()}
        (self.network,) = (one for one in self.before.cell.records(Network).values() if one.uid == self.port[first].spec.network_uid)

    def note(self, kind: Kind, word: str) -> None:
        assert kind not in self.planted, kind
        self.planted[kind] = word

    def later(self, undo: Callable[..., Any], *arguments: Any) -> None:
        self._undo.callback(undo, *arguments)

    def clear(self) -> None:
        self._undo.close()

    # ---- in the stores

    def put(self, plane: str, key: str, value: bytes = b"") -> None:
        store = self.before.region if plane == "region" else self.before.cell
        full = f"{store.prefix}/{key}".encode()
        call_store(self.hosts, plane, "Put", PutRequest(key=full, value=value), PutResponse)
        self._restore(plane, key)

    def delete(self, plane: str, key: str) -> None:
        self._delete(plane, key)
        self._restore(plane, key)

    def record(self, plane: str, record: Any, part: str = "intent") -> str:
        """Put a record in place of what is there, and return its uid."""
        store = self.before.region if plane == "region" else self.before.cell
        keys = Keys(store.prefix)
        key = keys.relative(keys.part(table_name(type(record)), record.uid, part))
        self.put(plane, key, record.SerializeToString(deterministic=True))
        return str(record.uid)

    def stored(self, kind: type[Message], uid: str) -> Any:
        """Return the intent of a record of the cell, to change it."""
        keys = Keys(self.before.cell.prefix)
        return kind.FromString(self.before.cell.keys[keys.relative(keys.part(table_name(kind), uid, "intent"))])

    def _restore(self, plane: str, key: str) -> None:
        store = self.before.region if plane == "region" else self.before.cell
        if key in store.keys:
            request = PutRequest(key=f"{store.prefix}/{key}".encode(), value=store.keys[key])
            self.later(call_store, self.hosts, plane, "Put", request, PutResponse)
        else:
            self.later(self._delete, plane, key)

    def _delete(self, plane: str, key: str) -> None:
        store = self.before.region if plane == "region" else self.before.cell
        request = DeleteRangeRequest(key=f"{store.prefix}/{key}".encode())
        call_store(self.hosts, plane, "DeleteRange", request, DeleteRangeResponse)

    # ---- on hosts

    def plane(self, host: str, do: str, undo: str) -> None:
        self.hosts.plane(host, *do.split())
        self.later(self.hosts.plane, host, *undo.split())

    def file(self, path: Path, content: bytes = b"x") -> None:
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        self.later(path.unlink) if before is None else self.later(path.write_bytes, before)

    def domain(self, host: str, uid: str) -> None:
        """Define a domain that nobody starts."""
        text = f"<domain type='qemu'><name>{uid}-{host}</name><uuid>{uid}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"
        with connected(self.hosts, host) as connection:
            connection.defineXML(text)
        self.later(self._undefine, host, uid)

    def _undefine(self, host: str, uid: str) -> None:
        with connected(self.hosts, host) as connection:
            connection.lookupByUUIDString(uid).undefine()


@contextmanager
def connected(hosts: Hosts, host: str) -> Iterator[Any]:
    connection = libvirt.open(hosts.node(host).libvirt_uri)
    try:
        yield connection
    finally:
        connection.close()


def plant(garden: Garden) -> None:
    """Plant one of each kind."""
    _in_region(garden)
    _between_planes(garden)
    _room(garden)
    _pools(garden)
    ghost = _servers(garden)
    _kept(garden)
    _ports(garden, ghost)
    _links(garden)


def _new() -> str:
    return str(uuid7())


def _in_region(garden: Garden) -> None:
    region, port = garden.before.region, garden.port[garden.first]
    keys = {
        Kind.NAME_WITHOUT_RECORD: "name/server/projects/default/servers/{0}",
        Kind.LIVE_KEY_WITHOUT_RECORD: "live/server/{0}",
        Kind.REFERENCE_WITHOUT_RECORD: "ref/flavor/nothing/server/{0}",
        Kind.STATUS_WITHOUT_INTENT: "record/flavor/00/{0}/status",
        Kind.ADDRESS_WITHOUT_PORT: f"address/{port.spec.subnet_uid}/10.0.255.99",
        Kind.MAC_WITHOUT_PORT: "mac/02:6b:00:00:00:98",
        Kind.NUMBER_WITHOUT_NETWORK: "vni/5",
        Kind.SECRET_WITHOUT_SERVER: "secret/user-data/{0}",
    }
    for kind, key in keys.items():
        uid = _new()
        garden.put("region", key.format(uid), uid.encode())
        garden.note(kind, uid)
    flavor = "name/flavor/flavors/medium"
    garden.note(Kind.RECORD_WITHOUT_NAME, region.keys[flavor].decode())
    for key in (flavor, f"address/{port.spec.subnet_uid}/{port.spec.address}", f"mac/{port.spec.mac}", f"vni/{garden.network.spec.vni}"):
        garden.delete("region", key)
    garden.note(Kind.PORT_WITHOUT_ADDRESS, port.uid)
    garden.note(Kind.PORT_WITHOUT_MAC, port.uid)
    garden.note(Kind.NETWORK_WITHOUT_NUMBER, garden.network.uid)
    lost = Port(uid=_new(), name="projects/default/ports/lost", spec=Port.Spec(network_uid=_new()))
    garden.note(Kind.PORT_WITHOUT_NETWORK, garden.record("region", lost))
    counter = next(key for key in region.keys if key.startswith("usage/") and key.endswith("/servers"))
    garden.put("region", counter, Usage(amount=9).SerializeToString())
    garden.note(Kind.USAGE_IS_NOT_THE_SUM, counter.removeprefix("usage/"))


def _between_planes(garden: Garden) -> None:
    garden.note(Kind.INTENT_NOT_IN_CELL, garden.record("region", Server(uid=_new(), name="projects/default/servers/unknown")))
    uid = garden.record("cell", Volume(uid=_new(), name="projects/default/volumes/ghost"))
    for kind in (Kind.CELL_RECORD_WITHOUT_INTENT, Kind.RECORD_WITHOUT_ORDER, Kind.VOLUME_WITHOUT_DISK):
        garden.note(kind, uid)
    image = garden.stored(Image, next(iter(garden.before.cell.records(Image))))
    image.generation += 1
    garden.note(Kind.CELL_HAS_ANOTHER_GENERATION, garden.record("cell", image))
    garden.note(Kind.ORDER_WITHOUT_RECORD, garden.record("cell", Order(uid=_new())))
    garden.note(Kind.END_NOT_ACKNOWLEDGED, garden.record("cell", End(uid=_new())))
    ended = End(uid=garden.disk[garden.first])
    ended.acknowledge_time.GetCurrentTime()
    garden.note(Kind.ENDED_AND_HELD, garden.record("cell", ended))


def _room(garden: Garden) -> None:
    hosts = {one.name.removeprefix("hosts/"): one.uid for one in garden.before.cell.records(Host).values()}
    claim = next(one for one in garden.before.cell.records(Claim).values() if one.server_uid == garden.second)
    key = next(key for key in garden.before.cell.keys if key.startswith("record/claim/") and claim.uid in key)
    garden.delete("cell", key)
    garden.note(Kind.SERVER_WITHOUT_CLAIM, garden.second)
    garden.note(Kind.BOOKING_IS_NOT_THE_SUM, hosts["h2"])
    nobody = _new()
    garden.record("cell", Claim(uid=f"{nobody}.1.1", server_uid=nobody, host_uid=hosts["h3"], memory_mib=1 << 40))
    garden.note(Kind.CLAIM_WITHOUT_SERVER, nobody)
    garden.note(Kind.CLAIMS_EXCEED_CAPACITY, hosts["h3"])
    garden.record("cell", Claim(uid=f"{garden.first}.1.9", server_uid=garden.first, host_uid=hosts["h1"]))
    garden.note(Kind.TWO_CLAIMS, garden.first)
    garden.note(Kind.PLACEMENT_WITHOUT_SERVER, garden.record("cell", Placement(uid=_new())))
    garden.note(Kind.STAGING_WITHOUT_IMAGE, garden.record("cell", Staging(uid=_new())))
    garden.note(Kind.CARRIERS_WITHOUT_NETWORK, garden.record("cell", Carriers(uid=_new())))


def _pools(garden: Garden) -> None:
    garden.note(Kind.IMAGE_WITHOUT_DISK, garden.record("region", Image(uid=_new(), name="projects/default/images/ghost")))
    # On a thread of its own: who talks to Ceph is on the network of the lab, and that by thread.
    thread, stack = ThreadPoolExecutor(1), ExitStack()
    garden.later(thread.shutdown)
    garden.later(lambda: thread.submit(stack.close).result())
    thread.submit(_disks, garden, stack).result()


def _disks(garden: Garden, stack: ExitStack) -> None:
    cluster = stack.enter_context(garden.hosts.ceph())
    volumes, images = (stack.enter_context(cluster.open_ioctx(pool)) for pool in ("volumes", "images"))

    def make(io: Any, name: str) -> None:
        rbd.RBD().create(io, name, 1 << 20)
        stack.callback(rbd.RBD().remove, io, name)

    held, loose, alone = _new(), _new(), _new()
    make(images, loose)
    make(volumes, volume_name(held))
    make(volumes, "strange")
    image = stack.enter_context(rbd.Image(volumes, volume_name(held)))
    image.lock_exclusive("planted")
    stack.callback(image.unlock, "planted")
    for kind in (Kind.DISK_WITHOUT_VOLUME, Kind.LOCK_LEFT, Kind.WATCHER_LEFT):
        garden.note(kind, held)
    garden.note(Kind.DISK_WITHOUT_IMAGE, loose)
    garden.note(Kind.STRANGE_IN_POOL, "volumes/strange")
    volumes.write_full(mark_object(alone), b"")
    stack.callback(volumes.remove_object, mark_object(alone))
    garden.note(Kind.MARK_WITHOUT_DISK, alone)
    first, second = garden.disk[garden.first], garden.disk[garden.second]
    for uid in (first, second):
        mark = garden.before.disks[uid].mark
        assert mark is not None
        stack.callback(_write_mark, volumes, uid, mark)
    _write_mark(volumes, first, Mark(garden.first, "h3", 1, 2))
    volumes.remove_object(mark_object(second))
    garden.note(Kind.MARK_OF_ANOTHER, first)
    garden.note(Kind.DISK_WITHOUT_MARK, second)


def _write_mark(io: Any, uid: str, mark: Mark) -> None:
    operation = io.create_write_op()
    io.set_omap(operation, ("owner",), (text_of(mark).encode(),))
    io.operate_write_op(operation, mark_object(uid))
    io.release_write_op(operation)


def _servers(garden: Garden) -> Server:
    """Plant domains, and return a server that the cell places on h3 and that runs nowhere."""
    garden.note(Kind.SERVER_WITHOUT_DOMAIN, garden.record("cell", Server(uid=_new(), name="projects/default/servers/nowhere")))
    stranger = _new()
    garden.domain("h3", stranger)
    garden.note(Kind.DOMAIN_WITHOUT_SERVER, stranger)
    garden.domain("h3", garden.first)
    garden.note(Kind.DOMAIN_ON_ANOTHER_HOST, f"h3 {garden.first}")
    garden.note(Kind.TWO_DOMAINS, garden.first)
    ghost = Server(uid=_new(), name="projects/default/servers/ghost", spec=Server.Spec(power=Server.RUNNING))
    garden.record("cell", ghost)
    garden.record("cell", Placement(uid=ghost.uid, host="h3", epoch=Epoch(cell=1, host=1)))
    garden.domain("h3", ghost.uid)
    garden.note(Kind.DOMAIN_SHOULD_RUN, ghost.uid)
    off = garden.stored(Server, garden.second)
    off.spec.power = Server.OFF
    garden.note(Kind.DOMAIN_RUNS_AND_SHOULD_NOT, garden.record("cell", off))
    said = _new()
    garden.file(garden.hosts.node("h3").libvirt / "log" / "consoles" / f"{said}.log")
    garden.note(Kind.CONSOLE_LOG_WITHOUT_SERVER, said)
    return ghost


def _kept(garden: Garden) -> None:
    first, third = (garden.hosts.node(host).agent / "kept" for host in ("h1", "h3"))
    for kind in ("servers", "ports", "server-clients"):
        (third / kind).mkdir(mode=0o700, exist_ok=True)
    file = first / "servers" / f"{garden.first}.state"
    head, _, content = file.read_bytes().partition(b"\n")
    command = ApplyServerRequest.FromString(content)
    command.stamp.generation += 1
    garden.file(file, head + b"\n" + command.SerializeToString())
    garden.note(Kind.KEPT_DIFFERS, garden.first)
    command.uid = _new()
    garden.file(third / "servers" / f"{command.uid}.state", head + b"\n" + command.SerializeToString())
    garden.note(Kind.KEPT_WITHOUT_INTENT, f"h3 servers {command.uid}")
    tombstone, beside = _new(), _new()
    garden.file(third / "ports" / f"{tombstone}.state", head + b"\n" + ApplyPortRequest(uid=tombstone).SerializeToString())
    garden.note(Kind.TOMBSTONE_NOT_ACKNOWLEDGED, tombstone)
    garden.file(third / "server-clients" / f"{beside}.state")
    garden.note(Kind.KEPT_BESIDE_NOTHING, beside)


def _ports(garden: Garden, ghost: Server) -> None:
    """Plant ports that the cell wants: beside the first server's own, on h3 in the same network, and on h3 in a network of its own."""

    def port(server_uid: str, network: Network, address: str) -> str:
        mac = "02:6b:00:00:01:" + address.rpartition(".")[2]
        spec = Port.Spec(network_uid=network.uid, server_uid=server_uid, mac=mac, address=address)
        return garden.record("cell", Port(uid=_new(), name=f"projects/default/ports/at-{address}", spec=spec))

    beside = port(garden.first, garden.network, "10.0.255.11")
    garden.note(Kind.INTENT_NOT_KEPT, f"h1 ports {beside}")
    garden.note(Kind.PORT_WITHOUT_TAP, names.tap(beside))
    garden.note(Kind.PORT_WITHOUT_RULE, names.tap(beside))
    garden.note(Kind.THING_WITHOUT_ANSWER, f"h1 ports {beside}")
    port(ghost.uid, garden.network, "10.0.255.12")
    garden.note(Kind.PORT_WITHOUT_STATION, "h1 " + f"{garden.network.spec.vni} 02:6b:00:00:01:12")
    garden.note(Kind.PORT_WITHOUT_NEIGHBOUR, "10.0.255.12")
    garden.note(Kind.HOST_OF_PORT_NOT_LET_IN, "h1 " + garden.before.tunnels["h3"])
    network = Network(uid=_new(), name="projects/default/networks/ghost", spec=Network.Spec(vni=78))
    garden.record("cell", network)
    port(ghost.uid, network, "10.0.255.13")
    garden.note(Kind.NETWORK_WITHOUT_LINK, "h3 " + names.bridge(78))
    garden.note(Kind.NETWORK_WITHOUT_NAMESPACE, "h3 " + names.metadata_namespace(78))


def _links(garden: Garden) -> None:
    vni, second = garden.network.spec.vni, garden.port[garden.second].spec
    bridge, tunnel, tap = names.bridge(vni), names.tunnel(vni), names.tap(garden.port[garden.first].uid)
    garden.plane("h3", "ip link add ktplanted type bridge", "ip link del ktplanted")
    garden.note(Kind.TAP_WITHOUT_PORT, "h3 ktplanted")
    garden.plane("h1", f"ip link set {tap} nomaster", f"ip link set {tap} master {bridge}")
    garden.note(Kind.TAP_ON_ANOTHER_BRIDGE, tap)
    garden.hosts.exec("h3", "ip", "link", "add", "ktstray", "type", "bridge")
    garden.later(garden.hosts.exec, "h3", "ip", "link", "del", "ktstray")
    garden.note(Kind.LINK_OUTSIDE_DATA_PLANE, "h3 ktstray")
    garden.plane("h3", "ip link add kb4d type bridge", "ip link del kb4d")
    garden.note(Kind.LINK_WITHOUT_NETWORK, "h3 kb4d")
    garden.hosts.exec("h3", "touch", "/run/kumo/netns/md-4d")
    garden.later(garden.hosts.exec, "h3", "rm", "/run/kumo/netns/md-4d")
    garden.note(Kind.NAMESPACE_WITHOUT_NETWORK, "md-4d")
    station = f"{GHOST_MAC} dev {tunnel} dst {NOBODY}"
    garden.plane("h1", f"bridge fdb add {station}", f"bridge fdb del {station}")
    garden.note(Kind.STATION_WITHOUT_PORT, GHOST_MAC)
    move = f"bridge fdb replace {second.mac} dev {tunnel} dst "
    garden.plane("h1", move + NOBODY, move + garden.before.tunnels["h2"])
    garden.note(Kind.STATION_ON_ANOTHER_HOST, f"{second.mac} {NOBODY}")
    garden.plane(
        "h1", f"ip neigh add {GHOST_ADDRESS} lladdr {GHOST_MAC} dev {bridge} nud permanent", f"ip neigh del {GHOST_ADDRESS} dev {bridge}"
    )
    garden.note(Kind.NEIGHBOUR_WITHOUT_PORT, GHOST_ADDRESS)
    garden.plane("h3", "nft add element bridge kumo guarded { ktplanted }", "nft delete element bridge kumo guarded { ktplanted }")
    garden.note(Kind.RULE_WITHOUT_PORT, "ktplanted")
    element = f"element inet {_tunnel_table(garden.hosts)} far4 {{ {NOBODY} }}"
    garden.hosts.exec("h1", "nft", f"add {element}")
    garden.later(garden.hosts.exec, "h1", "nft", f"delete {element}")
    garden.note(Kind.HOST_LET_IN_WITHOUT_PORT, NOBODY)
    answer = _new()
    garden.file(garden.hosts.node("h3").guest / "answers" / "servers" / f"{answer}.json")
    garden.note(Kind.ANSWER_WITHOUT_THING, answer)


def _tunnel_table(hosts: Hosts) -> str:
    rules = hosts.exec("h1", "nft", "list", "tables")
    return next(line.split()[2] for line in rules.splitlines() if " kumo_" in line)
