"""Finds what does not fit together in a picture of a lab: records with records, and records with what hosts and pools have, both ways.

Pure. It is right of a lab at rest: what is under way looks like a discrepancy, so whoever asks waits until there is none.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from kumo.api.cell.v1.record_pb2 import Booking, Carriers, Claim, End, Order, Placement, Staging
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.api.image.v1.image_pb2 import Image
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.network.v1.subnet_pb2 import Subnet
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.store.v1.values_pb2 import Usage
from tests.flows.audit_hosts import of_hosts
from tests.flows.audit_kinds import Finding, Kind, both
from tests.flows.picture import Picture, Store

__all__ = ["Finding", "Kind", "findings"]

Ordered = Server | Volume | Attachment | Port | Network | Image
_CELL: tuple[type[Ordered], ...] = (Server, Volume, Attachment, Port, Network, Image)
_COUNTED: dict[type[Ordered | Subnet], str] = {
    Server: "servers",
    Volume: "volumes",
    Port: "ports",
    Network: "networks",
    Subnet: "subnets",
    Image: "images",
}


def findings(picture: Picture) -> set[Finding]:
    """Return all discrepancies; none when everything fits."""
    return {
        *_keys(picture.region),
        *_given(picture.region),
        *_used(picture.region),
        *_planes(picture.region, picture.cell),
        *_claims(picture.cell),
        *_disks(picture),
        *of_hosts(picture),
    }


def _keys(region: Store) -> Iterable[Finding]:
    """Names, references and the like, each with its record."""
    there = region.intents()
    names = {(pieces[0], value.decode()) for pieces, value in region.below("name")}
    yield from both(there, names, Kind.RECORD_WITHOUT_NAME, Kind.NAME_WITHOUT_RECORD)
    for pieces, _ in region.below("live"):
        if (pieces[0], pieces[1]) not in there:
            yield Finding(Kind.LIVE_KEY_WITHOUT_RECORD, pieces[1])
    for pieces, _ in region.below("ref"):
        if not {(pieces[0], pieces[1]), (pieces[2], pieces[3])} <= there:
            yield Finding(Kind.REFERENCE_WITHOUT_RECORD, pieces[3])
    parts = {(pieces[0], pieces[2]) for pieces, _ in region.below("record") if len(pieces) == 4}
    for table, uid in parts - there:
        yield Finding(Kind.STATUS_WITHOUT_INTENT, f"{table} {uid}")


def _given(region: Store) -> Iterable[Finding]:
    """What is given out once: addresses, MACs, numbers of networks; and secrets."""
    ports, networks = region.records(Port), region.records(Network)
    subnets = region.records(Subnet)
    addresses = {f"{pieces[0]}/{pieces[1]} {value.decode()}" for pieces, value in region.below("address")}
    wanted = {f"{port.spec.subnet_uid}/{port.spec.address} {uid}" for uid, port in ports.items()}
    yield from both(wanted, addresses, Kind.PORT_WITHOUT_ADDRESS, Kind.ADDRESS_WITHOUT_PORT)
    macs = {f"{pieces[0]} {value.decode()}" for pieces, value in region.below("mac")}
    yield from both({f"{port.spec.mac} {uid}" for uid, port in ports.items()}, macs, Kind.PORT_WITHOUT_MAC, Kind.MAC_WITHOUT_PORT)
    numbers = {f"{pieces[0]} {value.decode()}" for pieces, value in region.below("vni")}
    made = {f"{network.spec.vni} {uid}" for uid, network in networks.items()}
    yield from both(made, numbers, Kind.NETWORK_WITHOUT_NUMBER, Kind.NUMBER_WITHOUT_NETWORK)
    for uid, port in ports.items():
        if port.spec.network_uid not in networks or port.spec.subnet_uid not in subnets:
            yield Finding(Kind.PORT_WITHOUT_NETWORK, uid)
    servers = region.records(Server)
    for pieces, _ in region.below("secret/user-data"):
        if pieces[0] not in servers:
            yield Finding(Kind.SECRET_WITHOUT_SERVER, pieces[0])


def _used(region: Store) -> Iterable[Finding]:
    counted = {f"{pieces[0]}/{pieces[1]}": Usage.FromString(value).amount for pieces, value in region.below("usage")}
    projects = {pieces[-1]: value.decode() for pieces, value in region.below("name/project")}
    used: Counter[str] = Counter()
    for kind, noun in _COUNTED.items():
        for record in region.records(kind).values():
            project = projects.get(record.name.split("/")[1], "")
            used[f"{project}/{noun}"] += 1
            if isinstance(record, Server):
                used[f"{project}/vcpus"] += record.spec.vcpus
                used[f"{project}/memory_mib"] += record.spec.memory_mib
            if isinstance(record, Volume):
                used[f"{project}/gib"] += record.spec.size_gib
    for counter in used.keys() | counted.keys():
        if used[counter] != counted.get(counter, 0):
            yield Finding(Kind.USAGE_IS_NOT_THE_SUM, counter)


def _planes(region: Store, cell: Store) -> Iterable[Finding]:
    """What the region wants of the cell, and what the cell holds."""
    orders, ends = cell.records(Order), cell.records(End)
    for kind in _CELL:
        wanted, held = region.records(kind), cell.records(kind)
        for uid in held.keys() - wanted.keys():
            yield Finding(Kind.CELL_RECORD_WITHOUT_INTENT, uid)
        for uid in held.keys() - orders.keys():
            yield Finding(Kind.RECORD_WITHOUT_ORDER, uid)
        for uid in _placed(wanted) - held.keys():
            yield Finding(Kind.INTENT_NOT_IN_CELL, uid)
        for uid in wanted.keys() & held.keys():
            if wanted[uid].generation != held[uid].generation:
                yield Finding(Kind.CELL_HAS_ANOTHER_GENERATION, uid)
    known = {uid for _, uid in cell.intents()}
    held_uids = {uid for table, uid in cell.intents() if table not in ("order", "end", "placement", "carriers", "staging", "event")}
    for uid in orders.keys() - held_uids:
        yield Finding(Kind.ORDER_WITHOUT_RECORD, uid)
    for uid, end in ends.items():
        if not end.HasField("acknowledge_time"):
            yield Finding(Kind.END_NOT_ACKNOWLEDGED, uid)
        if not end.withdrawn and uid in held_uids:
            yield Finding(Kind.ENDED_AND_HELD, uid)
    servers = cell.records(Server)
    for pieces, _ in cell.below("user-data"):
        if pieces[-1] not in servers:
            yield Finding(Kind.SECRET_WITHOUT_SERVER, pieces[-1])
    for table, uid in {(pieces[0], pieces[2]) for pieces, _ in cell.below("record") if len(pieces) == 4}:
        if uid not in known:
            yield Finding(Kind.STATUS_WITHOUT_INTENT, f"{table} {uid}")


def _placed(wanted: Mapping[str, Ordered]) -> set[str]:
    """Return what a cell has been told of for certain: what belongs to no server waits until one wants it."""
    return {uid for uid, one in wanted.items() if isinstance(one, Server) or (isinstance(one, Volume | Port) and one.owner_uid)}


def _claims(cell: Store) -> Iterable[Finding]:
    servers, placements, claims = cell.records(Server), cell.records(Placement), cell.records(Claim)
    hosts = cell.records(Host)
    placed = {uid: one for uid, one in placements.items() if one.host_uid}
    wanted = {f"{uid}.{one.epoch.cell}.{one.epoch.host} on {one.host_uid}" for uid, one in placed.items() if uid in servers}
    found = {f"{uid} on {one.host_uid}" for uid, one in claims.items()}
    yield from both(wanted, found, Kind.SERVER_WITHOUT_CLAIM, Kind.CLAIM_WITHOUT_SERVER)
    for uid in placements.keys() - servers.keys():
        yield Finding(Kind.PLACEMENT_WITHOUT_SERVER, uid)
    for uid in {one.server_uid for one in claims.values()}:
        if sum(one.server_uid == uid for one in claims.values()) > 1:
            yield Finding(Kind.TWO_CLAIMS, uid)
    booked = {uid: (one.vcpus, one.memory_mib, one.claim_count) for uid, one in cell.records(Booking).items()}
    for uid in booked.keys() | {one.host_uid for one in claims.values()}:
        mine = [one for one in claims.values() if one.host_uid == uid]
        total = (sum(one.vcpus for one in mine), sum(one.memory_mib for one in mine), len(mine))
        if booked.get(uid, (0, 0, 0)) != total:
            yield Finding(Kind.BOOKING_IS_NOT_THE_SUM, uid)
        if uid in hosts and total[1] > hosts[uid].status.memory_mib:
            yield Finding(Kind.CLAIMS_EXCEED_CAPACITY, uid)
    images, networks = cell.records(Image), cell.records(Network)
    for uid in cell.records(Staging).keys() - images.keys():
        yield Finding(Kind.STAGING_WITHOUT_IMAGE, uid)
    for uid in cell.records(Carriers).keys() - networks.keys():
        yield Finding(Kind.CARRIERS_WITHOUT_NETWORK, uid)


def _disks(picture: Picture) -> Iterable[Finding]:
    """Volumes, their marks and who has them open; images."""
    volumes, placements = picture.cell.records(Volume), picture.cell.records(Placement)
    servers = picture.cell.records(Server)
    roots = {one.spec.volume_uid: one.spec.server_uid for one in picture.cell.records(Attachment).values()}
    yield from both(set(volumes), set(picture.disks), Kind.VOLUME_WITHOUT_DISK, Kind.DISK_WITHOUT_VOLUME)
    yield from both(set(picture.region.records(Image)), set(picture.images), Kind.IMAGE_WITHOUT_DISK, Kind.DISK_WITHOUT_IMAGE)
    for uid in picture.marks - picture.disks.keys():
        yield Finding(Kind.MARK_WITHOUT_DISK, uid)
    for name in picture.strange:
        yield Finding(Kind.STRANGE_IN_POOL, name)
    for uid in volumes.keys() & picture.disks.keys():
        disk, server_uid = picture.disks[uid], roots.get(uid, "")
        place = placements.get(server_uid, Placement())
        if server_uid and place.host:
            if disk.mark is None:
                yield Finding(Kind.DISK_WITHOUT_MARK, uid)
            elif (disk.mark.server_uid, disk.mark.host, disk.mark.epoch) != (server_uid, place.host, (place.epoch.cell, place.epoch.host)):
                yield Finding(Kind.MARK_OF_ANOTHER, uid)
    for uid, disk in picture.disks.items():
        server_uid = roots.get(uid, "")
        runs = server_uid in servers and servers[server_uid].spec.power == Server.RUNNING
        host = placements[server_uid].host if server_uid in placements else ""
        may = picture.storage.get(host, "") if runs else ""
        for kind, clients in ((Kind.LOCK_LEFT, disk.lockers), (Kind.WATCHER_LEFT, disk.watchers)):
            if any(_address(client) != may for client in clients) or len(clients) > 1:
                yield Finding(kind, uid)


def _address(client: str) -> str:
    return client.rpartition(":")[0].removeprefix("v1:").removeprefix("v2:").strip("[]")
