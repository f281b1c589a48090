"""The owner of a disk as the contract says it, from and to the mark beside the disk."""

from kumo.api.agent.v1.storage_pb2 import Owner
from kumo.api.type.v1.stamp_pb2 import Epoch
from storage.mark import Mark


def mark_from(owner: Owner) -> Mark:
    return Mark(owner.server_uid, owner.host, owner.epoch.cell, owner.epoch.host)


def owner_from(mark: Mark) -> Owner:
    """Nobody at no epoch is an owner with nothing set."""
    if mark == Mark():
        return Owner()
    return Owner(server_uid=mark.server_uid, host=mark.host, epoch=Epoch(cell=mark.cell_epoch, host=mark.host_epoch))
