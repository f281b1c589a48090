"""What the storage servicer and the compute role ask of a backend: `rbd` and `file` are real, `fake` keeps its state in files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.storage.proof import Proof
from kumo.api.agent.v1.storage_pb2 import Owner, PoolReference, VolumeFacts
from kumo.pool_verbs import Verb
from storage.image import Image


@dataclass(frozen=True)
class Usage:
    """How full a pool is, in bytes."""

    capacity_bytes: int
    used_bytes: int


@dataclass(frozen=True)
class RbdDisk:
    """What QEMU needs to open a volume in RBD. `key` is the secret of the Ceph user: it goes into a libvirt secret, never into a log."""

    pool: str
    image: str
    conf_file: Path
    monitors: tuple[tuple[str, int], ...]
    user: str
    key: str

    def __repr__(self) -> str:
        return f"RbdDisk({self.pool}/{self.image})"


@dataclass(frozen=True)
class FileDisk:
    """What QEMU needs to open a volume that is a raw file of this host."""

    path: Path


DiskSource = RbdDisk | FileDisk


@dataclass(frozen=True)
class DeadClient:
    """A client that is gone: it served the disk for this owner, had these addresses (ip:port/nonce), and `proof` says that it ended."""

    owner: Owner
    addresses: Sequence[str]
    proof: Proof


class Disks(Protocol):
    """What the compute role asks about the disks of its own guests."""

    async def owner_of(self, pool: PoolReference, uid: str) -> Owner | None:
        """Return whose disk a volume is, None where no mark says so. Raises Unavailable if that cannot be read."""

    async def disk_source(self, pool: PoolReference, uid: str) -> DiskSource: ...

    async def client_addresses(self, pool: PoolReference, uid: str) -> list[str]:
        """Return the addresses of all clients that have the volume open for writing, lock owners among them."""

    async def lock_owners(self, pool: PoolReference, uid: str) -> list[str]:
        """Return the addresses of the clients that hold the volume's lock."""

    async def break_dead_lock(self, pool: PoolReference, uid: str, client: DeadClient) -> None:
        """Break the lock that a dead client of this host left. A lock that is not there is broken.

        Raises FailedPrecondition OWNER_CHANGED if the mark names another owner, CLIENT_ALIVE if the proof does not hold, LOCK_FOREIGN if
        another client holds the lock.
        """


class StorageDriver(Disks, Protocol):
    """What the servicer asks. Every method may be called again after any failure, and is then called with the same arguments."""

    @property
    def verbs(self) -> frozenset[Verb]:
        """What it can do; the servicer refuses the rest, and the region does so when it is asked for."""

    async def ensure_volume(self, pool: PoolReference, volume: "WantedVolume") -> VolumeFacts:
        """Raises NotFound IMAGE_NOT_FOUND, FailedPrecondition VOLUME_TOO_SMALL, ResourceExhausted POOL_FULL."""

    async def delete_volume(self, pool: PoolReference, uid: str) -> None:
        """Raises FailedPrecondition VOLUME_IN_USE while a client has it open."""

    async def list_volumes(self, pool: PoolReference) -> list[VolumeFacts]: ...

    async def set_owner(self, pool: PoolReference, uid: str, expected: Owner, owner: Owner) -> Owner:
        """Raises FailedPrecondition OWNER_CHANGED, NotFound VOLUME_NOT_FOUND."""

    async def find_image(self, pool: PoolReference, uid: str) -> Image | None: ...

    async def import_image(self, pool: PoolReference, image: Image, path: Path, progress: Callable[[int], None]) -> None:
        """Write the raw file at `path` as an image. `progress` is told from a thread how many bytes were passed.

        Cancelled or killed at any moment, it leaves no image and nothing that purge() does not take away.
        """

    async def delete_image(self, pool: PoolReference, uid: str) -> None: ...

    async def usage(self, pool: PoolReference) -> Usage: ...

    async def purge(self, pool: PoolReference) -> None:
        """Free what was deleted and is used no more, and what dead attempts at importing left."""

    async def close(self) -> None: ...


@dataclass(frozen=True)
class WantedVolume:
    """A volume as it shall be made. `image_uid` empty: blank."""

    uid: str
    size_bytes: int
    generation: int
    image_uid: str = ""
