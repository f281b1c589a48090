"""A picture of all that a lab of several hosts has at one moment: both stores, and of each host domains, links, rules and files.

It only looks; what of it does not fit together is found by audit.py.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import rbd
from google.protobuf.message import Message

from agent.network.names import vni_of
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest
from kumo.api.agent.v1.network_pb2 import ApplyNetworkRequest, ApplyPortRequest
from kumo.store.etcd.rpc_pb2 import RangeRequest, RangeResponse
from kumo.store.record import table_name
from storage.block.names import mark_object, volume_uid
from storage.mark import Mark, mark_of
from tests.flows.hosts import PLANE, Hosts

M = TypeVar("M", bound=Message)
Command = ApplyServerRequest | ApplyNetworkRequest | ApplyPortRequest

_MAC = r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}"
_FAR = re.compile(rf"^({_MAC}) dev (kv\w+) .*dst (\S+)")
_NEIGHBOUR = re.compile(rf"^(\S+) dev (kb\w+) lladdr ({_MAC}) .*PERMANENT")
_SECTION = "== "
_COMMANDS: dict[str, type[Command]] = {"servers": ApplyServerRequest, "networks": ApplyNetworkRequest, "ports": ApplyPortRequest}


@dataclass(frozen=True)
class Store:
    """The keys of one plane, without its prefix."""

    prefix: str
    keys: Mapping[str, bytes]

    def below(self, folder: str) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """Return the keys in a folder, in pieces below it."""
        start = folder + "/"
        return ((tuple(key[len(start) :].split("/")), value) for key, value in self.keys.items() if key.startswith(start))

    def records(self, kind: type[M]) -> dict[str, M]:
        """Return the records of a kind by uid, joined of their parts; what has no intent is none."""
        found: dict[str, dict[str, bytes]] = {}
        for pieces, value in self.below(f"record/{table_name(kind)}"):
            if len(pieces) == 3:
                found.setdefault(pieces[1], {})[pieces[2]] = value
        return {uid: kind.FromString(b"".join(parts.values())) for uid, parts in found.items() if "intent" in parts}

    def intents(self) -> set[tuple[str, str]]:
        """Return (table, uid) of all records that have an intent."""
        return {(pieces[0], pieces[2]) for pieces, _ in self.below("record") if pieces[-1] == "intent"}


@dataclass(frozen=True)
class HostPicture:
    """One host. `kept` and `ended` hold commands, and ends that were acknowledged, by kind of file and uid."""

    domains: Mapping[str, bool]
    links: Mapping[str, str]
    strays: frozenset[str]
    namespaces: frozenset[str]
    far: frozenset[tuple[int, str, str]]
    neighbours: frozenset[tuple[int, str, str]]
    elements: frozenset[tuple[str, str]]
    let_in: frozenset[str]
    kept: Mapping[str, Mapping[str, Command]]
    kept_files: Mapping[str, frozenset[str]]
    guest: Mapping[str, frozenset[str]]
    consoles: frozenset[str]


@dataclass(frozen=True)
class Disk:
    """A volume as RBD has it. Clients are addresses, of which the host is the part before the port."""

    mark: Mark | None
    lockers: frozenset[str]
    watchers: frozenset[str]


@dataclass(frozen=True)
class Picture:
    """Everything."""

    region: Store
    cell: Store
    hosts: Mapping[str, HostPicture]
    tunnels: Mapping[str, str]
    storage: Mapping[str, str]
    disks: Mapping[str, Disk]
    marks: frozenset[str]
    images: frozenset[str]
    strange: frozenset[str]


def take(hosts: Hosts) -> Picture:
    """Look at everything once."""
    disks, marks, images, strange = _storage(hosts)
    return Picture(
        region=read_store(hosts, "region", "/kumo/region/local"),
        cell=read_store(hosts, "cell", "/kumo/cell/a"),
        hosts={name: _host(hosts, name) for name in hosts.shape.hosts},
        tunnels={name: hosts.node(name).addresses.tunnel for name in hosts.shape.hosts},
        storage={name: hosts.node(name).addresses.storage for name in hosts.shape.hosts},
        disks=disks,
        marks=marks,
        images=images,
        strange=strange,
    )


def call_store(hosts: Hosts, plane: str, method: str, request: Message, answer: type[M]) -> M:
    """Make one call of etcd with the rights of a plane's controller."""
    tls = hosts.node("c1").controller / "tls"
    files = [(tls / name).read_bytes() for name in ("etcd-ca.crt", f"etcd-{plane}.key", f"etcd-{plane}.crt")]
    options = [("grpc.max_receive_message_length", 256 << 20), ("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(hosts.etcd(), grpc.ssl_channel_credentials(*files), options) as channel:
        call: Callable[..., M] = channel.unary_unary(f"/etcdserverpb.KV/{method}", type(request).SerializeToString, answer.FromString)
        return call(request, timeout=20, wait_for_ready=True)


def read_store(hosts: Hosts, plane: str, prefix: str) -> Store:
    first = f"{prefix}/".encode()
    answer = call_store(hosts, plane, "Range", RangeRequest(key=first, range_end=first[:-1] + b"0"), RangeResponse)
    return Store(prefix, {pair.key.decode()[len(prefix) + 1 :]: pair.value for pair in answer.kvs})


def _host(hosts: Hosts, name: str) -> HostPicture:
    node = hosts.node(name)
    script = f"""
        echo '== here'; ls /sys/class/net; echo '== spaces'; ls {Path(PLANE).parent}; echo '== host rules'; nft -j list ruleset
        [ -e {PLANE} ] || exit 0
        exec nsenter --net={PLANE} -- sh -c "echo '== links'; ip -o link; echo '== neighbours'; ip neigh; \
            echo '== far'; bridge fdb; echo '== rules'; nft -j list ruleset"
    """
    said = _sections(hosts.exec(name, "sh", "-c", script))
    links = {}
    for line in said.get("links", ()):
        found = re.match(r"\d+: ([^:@]+)[@:]", line)
        if found and found[1] != "lo":
            master = re.search(r" master (\S+)", line)
            links[found[1]] = master[1] if master else ""
    far = [_FAR.match(line) for line in said.get("far", ())]
    neighbours = [_NEIGHBOUR.match(line) for line in said.get("neighbours", ())]
    kept = node.agent / "kept"
    return HostPicture(
        domains=hosts.domains(name),
        links=links,
        strays=frozenset(one for one in said["here"] if one[:2] in ("kt", "kb", "kv", "km") or one.startswith("vnet")),
        namespaces=frozenset(set(said["spaces"]) - {"dp"}),
        far=frozenset((vni_of(one[2]) or 0, one[1], one[3]) for one in far if one),
        neighbours=frozenset((vni_of(one[2]) or 0, one[3], one[1]) for one in neighbours if one),
        elements=frozenset(one for one in _elements(said.get("rules", ())) if one[0] in ("guarded", "macs", "src4")),
        let_in=frozenset(key for name_, key in _elements(said["host rules"]) if name_ in ("far4", "far6")),
        kept={kind: _commands(kept / kind, message) for kind, message in _COMMANDS.items()},
        kept_files={folder.name: _stems(folder) for folder in kept.iterdir() if folder.is_dir()},
        guest={folder: _stems(node.guest / "answers" / folder) for folder in ("networks", "ports", "servers", "ready")}
        | {"by": frozenset(f"{one.parent.name}/{one.name}" for one in (node.guest / "answers" / "by").glob("*/*"))},
        consoles=frozenset(one.name.split(".")[0] for folder in ("consoles", "qemu") for one in (node.libvirt / "log" / folder).glob("*")),
    )


def _sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(_SECTION):
            current = found.setdefault(line.removeprefix(_SECTION), [])
        elif line.strip():
            current.append(line)
    return found


def _elements(lines: list[str] | tuple[()]) -> set[tuple[str, str]]:
    """Return (set, key) of the elements of Kumo's sets."""
    if not lines:
        return set()
    sets = [one["set"] for one in json.loads("\n".join(lines))["nftables"] if "set" in one and one["set"]["table"].startswith("kumo")]
    return {(one["name"], _key(element)) for one in sets for element in one.get("elem", ())}


def _key(element: Any) -> str:
    return " . ".join(element["concat"]) if isinstance(element, dict) and "concat" in element else str(element)


def _stems(folder: Path) -> frozenset[str]:
    return frozenset(one.name.removesuffix(".state").removesuffix(".json") for one in folder.glob("*")) if folder.exists() else frozenset()


def _commands(folder: Path, message: type[Command]) -> dict[str, Command]:
    found: dict[str, Command] = {}
    for file in folder.glob("*.state"):
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            continue  # it went while this was looking
        found[file.name.removesuffix(".state")] = message.FromString(content.partition(b"\n")[2])
    return found


def _storage(hosts: Hosts) -> tuple[dict[str, Disk], frozenset[str], frozenset[str], frozenset[str]]:
    """Return disks and marks by uid, names of images, and what is neither."""
    strange, disks = set(), {}
    with hosts.ceph() as cluster:
        with cluster.open_ioctx("volumes") as io:
            names, objects = rbd.RBD().list(io), {item.key for item in io.list_objects()}
            marks = {key.removeprefix(mark_object("")) for key in objects if key.startswith(mark_object(""))}
            for name in names:
                uid = volume_uid(name)
                if uid is None:
                    strange.add(f"volumes/{name}")
                    continue
                try:
                    disks[uid] = _disk(io, name, uid, has_mark=uid in marks)
                except rbd.ImageNotFound:
                    continue  # it went while this was looking
            strange |= {f"volumes/trash/{entry['name']}" for entry in rbd.RBD().trash_list(io)}
        with cluster.open_ioctx("images") as io:
            images = frozenset(rbd.RBD().list(io))
            strange |= {f"images/trash/{entry['name']}" for entry in rbd.RBD().trash_list(io)}
    return disks, frozenset(marks), images, frozenset(strange)


def _disk(io: Any, name: str, uid: str, *, has_mark: bool) -> Disk:
    with rbd.Image(io, name, read_only=True) as image:
        locks = image.list_lockers()
        lockers = frozenset(one[2] for one in (locks["lockers"] if locks else ()))
        watchers = frozenset(one["addr"] for one in image.watchers_list())
    mark = None
    if has_mark:
        operation = io.create_read_op()
        rows, _ = io.get_omap_vals_by_keys(operation, ("owner",))
        io.operate_read_op(operation, mark_object(uid))
        mark = mark_of(dict(rows)["owner"].decode())
        io.release_read_op(operation)
    return Disk(mark, lockers, watchers)
