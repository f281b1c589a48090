"""Answers, from the records and from what agents say: is a thing leaving, and is a server off its hosts. Reads only."""

from controller.cell.cell import Cell
from controller.cell.session import digest
from kumo.api.agent.v1.compute_pb2 import ServerFacts
from kumo.api.agent.v1.network_pb2 import PortFacts
from kumo.api.cell.v1.record_pb2 import Placement
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.network.v1.port_pb2 import Port
from kumo.api.storage.v1.attachment_pb2 import Attachment
from kumo.api.storage.v1.volume_pb2 import Volume
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.stamps import epoch_order

Owned = Port | Volume | Attachment


def is_withdrawn(cell: Cell, uid: str) -> bool:
    order = cell.records.orders.get(uid)
    return order is not None and order.withdrawn


def server_is_leaving(cell: Cell, server: Server) -> bool:
    return server.HasField("delete_time") or is_withdrawn(cell, server.uid)


def is_leaving(cell: Cell, thing: Owned) -> bool:
    """Return whether `thing` shall go: by itself, or with its owner."""
    if thing.HasField("delete_time") or is_withdrawn(cell, thing.uid):
        return True
    if not thing.owner_uid:
        return False
    owner = cell.records.servers.get(thing.owner_uid)
    return server_is_leaving(cell, owner) if owner is not None else _ended_with(cell, thing)


def _ended_with(cell: Cell, thing: Owned) -> bool:
    """Return whether the owner ended; one that was only taken back may be given again, and this part of it with it."""
    end, order = cell.records.ends.get(thing.owner_uid), cell.records.orders.get(thing.uid)
    if end is None:
        return False
    return not end.withdrawn or order is None or epoch_order(order.stamp.epoch) <= epoch_order(end.stamp.epoch)


def goes_withdrawn(cell: Cell, thing: Owned) -> bool:
    """Return whether the end of `thing`, which is leaving, is a withdrawal: it may be ordered again under a greater epoch."""
    if thing.HasField("delete_time"):
        return False
    if is_withdrawn(cell, thing.uid):
        return True
    owner = cell.records.servers.get(thing.owner_uid)
    if owner is not None:
        return not owner.HasField("delete_time")
    end = cell.records.ends.get(thing.owner_uid)
    return end is not None and end.withdrawn


def host_of(cell: Cell, server_uid: str) -> Placement | None:
    """Return the placement of a server that has a host."""
    placement = cell.records.placements.get(server_uid)
    return placement if placement is not None and placement.host_uid else None


def absence(epoch: Epoch, generation: int) -> bytes:
    """Return the digest of the command that takes a server away."""
    return digest(None, epoch, generation)


def server_is_off(cell: Cell, server_uid: str) -> bool:
    """Return whether no host runs the server or has anything of it, as far as it was asked to go."""
    server = cell.records.servers.get(server_uid)
    placement = host_of(cell, server_uid)
    if server is None or placement is None:
        return not servers_elsewhere(cell, server_uid, "")
    session = cell.agents.get(placement.host_uid)
    if session is None or not session.is_ready or not server_is_leaving(cell, server):
        return False
    facts = session.servers.get(server_uid)
    told = session.was_told(server_uid, absence(placement.epoch, server.generation))
    return told and facts is not None and facts.power == ServerFacts.ABSENT and not servers_elsewhere(cell, server_uid, placement.host_uid)


def servers_elsewhere(cell: Cell, server_uid: str, host_uid: str) -> list[str]:
    """Return the hosts, other than `host_uid`, whose agents have something of the server."""
    found = []
    for session in cell.agents.that_saw(server_uid):
        facts = session.servers.get(server_uid)
        if session.host_uid != host_uid and facts is not None and facts.power != ServerFacts.ABSENT:
            found.append(session.host_uid)
    return sorted(found)


def newest_holder(cell: Cell, server_uid: str) -> tuple[str, Epoch] | None:
    """Return the host, by uid, whose agent has something of the server under the greatest epoch, with that epoch."""
    found = [
        (session.host_uid, facts.held.epoch)
        for session in cell.agents.that_saw(server_uid)
        if (facts := session.servers.get(server_uid)) is not None and facts.power != ServerFacts.ABSENT
    ]
    return max(found, key=lambda one: (epoch_order(one[1]), one[0])) if found else None


def ports_elsewhere(cell: Cell, port_uid: str, host_uid: str) -> list[str]:
    """Return the hosts, other than `host_uid`, whose agents have something of the port."""
    found = []
    for session in cell.agents.that_saw(port_uid):
        facts = session.ports.get(port_uid)
        if session.host_uid != host_uid and facts is not None and facts.binding != PortFacts.ABSENT:
            found.append(session.host_uid)
    return sorted(found)
