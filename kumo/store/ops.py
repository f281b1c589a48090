"""Builds the compares and operations of etcd's transactions, and the end of a key range."""

from kumo.store.etcd import rpc_pb2 as pb

_Compare = pb.Compare


def prefix_end(prefix: bytes) -> bytes:
    """Return the smallest key after every key that begins with `prefix`; b"\\0", which means no end, if there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def create_revision_is(key: bytes, revision: int) -> pb.Compare:
    """0 means that the key must not exist."""
    return _Compare(key=key, target=_Compare.CREATE, result=_Compare.EQUAL, create_revision=revision)


def mod_revision_is(key: bytes, revision: int) -> pb.Compare:
    return _Compare(key=key, target=_Compare.MOD, result=_Compare.EQUAL, mod_revision=revision)


def exists(key: bytes) -> pb.Compare:
    return _Compare(key=key, target=_Compare.CREATE, result=_Compare.GREATER, create_revision=0)


def value_is(key: bytes, value: bytes) -> pb.Compare:
    return _Compare(key=key, target=_Compare.VALUE, result=_Compare.EQUAL, value=value)


def range_is_empty(prefix: bytes) -> pb.Compare:
    return _Compare(key=prefix, range_end=prefix_end(prefix), target=_Compare.CREATE, result=_Compare.EQUAL, create_revision=0)


def nothing_created_after(prefix: bytes, revision: int) -> pb.Compare:
    """Every key with this prefix was created at `revision` or before; true for none."""
    end = prefix_end(prefix)
    return _Compare(key=prefix, range_end=end, target=_Compare.CREATE, result=_Compare.LESS, create_revision=revision + 1)


def put(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    # By attributes: a message that is handed to another one is copied, and a create has dozens of these.
    operation = pb.RequestOp()
    wanted = operation.request_put
    wanted.key, wanted.value = key, value
    if lease:
        wanted.lease = lease
    return operation


def get(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def get_range(key: bytes, range_end: bytes, limit: int = 0) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, range_end=range_end, limit=limit))


def delete(key: bytes, range_end: bytes = b"") -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=range_end))
