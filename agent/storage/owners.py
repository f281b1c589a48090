"""A volume and its owner as the contract says them, from and to what lies beside the disk, and whose lock a host may break."""

from agent.storage.driver import DeadClient
from kumo.api.agent.v1.storage_pb2 import Owner, VolumeFacts
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.errors import FailedPrecondition
from storage.block.names import volume_name
from storage.mark import Mark, owner_changed
from storage.volume import Volume


def mark_from(owner: Owner) -> Mark:
    return Mark(owner.server_uid, owner.host, owner.epoch.cell, owner.epoch.host)


def owner_from(mark: Mark) -> Owner:
    """Nobody at no epoch is an owner with nothing set."""
    if mark == Mark():
        return Owner()
    return Owner(server_uid=mark.server_uid, host=mark.host, epoch=Epoch(cell=mark.cell_epoch, host=mark.host_epoch))


def facts_of(volume: Volume, mark: Mark | None) -> VolumeFacts:
    facts = VolumeFacts(uid=volume.uid, backend_name=volume_name(volume.uid), size_bytes=volume.size_bytes, generation=volume.generation)
    if mark is not None:
        facts.owner.CopyFrom(owner_from(mark))
    return facts


def require_dead(client: DeadClient, mark: Mark, uid: str) -> None:
    """Raises FailedPrecondition OWNER_CHANGED unless `client` served volume `uid` for its owner, CLIENT_ALIVE unless it is proven gone."""
    if not mark.same_owner(mark_from(client.owner)) or not mark.names_somebody:
        raise owner_changed(mark, f"a lock of {client.owner.server_uid}'s is not for this host to break")
    if not client.proof.holds():
        raise FailedPrecondition("CLIENT_ALIVE", f"what served volume {uid} is not proven gone: {client.proof}", uid=uid)
