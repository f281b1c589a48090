"""Saves all keys of one etcd as they are at one revision to a file, and puts them back into an etcd that is empty.

What lives with a lease, such as who leads, is left out: it ends with the process that held it. The file is one line of JSON and then
keys and values, each with its length before it; a file that is not whole is refused.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

from kumo.errors import FailedPrecondition
from kumo.store import ops
from kumo.store.etcd import rpc_pb2
from kumo.store.interface import EtcdClient
from kumo.store.loader import load_range

FORMAT = 1
_ROOT = b"/kumo/"
_LENGTHS = struct.Struct(">II")
_PUT_AT_ONCE = 100
_PUT_BYTES = 1 << 20

Pair = tuple[bytes, bytes]


async def save(etcd: EtcdClient, path: Path) -> int:
    """Write the snapshot; return how many keys it has. Nothing, or all of it, is at `path` afterwards."""
    items = await load_range(etcd, _ROOT)
    pairs = [(item.key, item.value) for item in items if not item.lease]
    body = b"".join(_LENGTHS.pack(len(key), len(value)) + key + value for key, value in pairs)
    head = {"format": FORMAT, "keys": len(pairs), "sha256": hashlib.sha256(body).hexdigest()}
    fresh = path.with_name(f".{path.name}.new")
    fresh.touch(mode=0o600)  # keys to page tokens, and users' data
    fresh.write_bytes(json.dumps(head).encode() + b"\n" + body)
    fresh.replace(path)
    return len(pairs)


def read(path: Path) -> list[Pair]:
    """Return what a snapshot holds. Raises FailedPrecondition for what is no whole snapshot, or one of a newer format."""
    line, _, body = path.read_bytes().partition(b"\n")
    try:
        head = json.loads(line)
        newer, whole = head["format"] > FORMAT, head["sha256"] == hashlib.sha256(body).hexdigest()
    except (ValueError, KeyError, TypeError):
        newer, whole = False, False
    if newer:
        raise FailedPrecondition("SNAPSHOT_NEWER", f"{path} is of a newer Kumo", fix="restore it with that one")
    if not whole:
        raise FailedPrecondition("SNAPSHOT_DAMAGED", f"{path} is no whole snapshot", fix="take another one")
    return list(_pairs(body))


async def restore(etcd: EtcdClient, pairs: list[Pair]) -> None:
    """Put the keys into an etcd that has none of Kumo's. Raises FailedPrecondition STORE_NOT_EMPTY if it has."""
    there = await etcd.range(rpc_pb2.RangeRequest(key=_ROOT, range_end=ops.prefix_end(_ROOT), count_only=True))
    if there.count:
        raise FailedPrecondition("STORE_NOT_EMPTY", f"there are {there.count} keys already", fix="restore into a new etcd")
    for batch in _batches(pairs):
        await etcd.txn(success=[ops.put(key, value) for key, value in batch])


def _pairs(body: bytes) -> Iterator[Pair]:
    at = 0
    while at < len(body):
        key_bytes, value_bytes = _LENGTHS.unpack_from(body, at)
        middle = at + _LENGTHS.size + key_bytes
        yield body[middle - key_bytes : middle], body[middle : middle + value_bytes]
        at = middle + value_bytes


def _batches(pairs: list[Pair]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        if batch and (len(batch) == _PUT_AT_ONCE or size + len(pair[1]) > _PUT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(pair)
        size += len(pair[1])
    if batch:
        yield batch
