"""Guards and batches, decided here as etcd decides them."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kumo.ids import new_uid
from kumo.store import ops
from kumo.store.changes import Changes, Found, Guard
from kumo.store.client import Etcd
from kumo.store.etcd import rpc_pb2
from kumo.store.ops import prefix_end

KEYS = st.binary(min_size=1, max_size=3)


@given(KEYS, KEYS)
def test_the_end_of_a_prefix_bounds_exactly_what_has_the_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert key.startswith(prefix) == (prefix <= key and (end == b"\0" or key < end))


async def test_a_guard_holds_here_when_it_holds_in_etcd(etcd: Etcd) -> None:
    root = f"/guards/{new_uid()}/".encode()
    first = (await etcd.txn(success=[ops.put(root + b"a/1", b"x")])).header.revision
    second = (await etcd.txn(success=[ops.put(root + b"a/2", b"x"), ops.put(root + b"a/1", b"x")])).header.revision
    keys = [root + b"a/1", root + b"a/2", root + b"nothing"]
    makers = (ops.create_revision_is, ops.mod_revision_is)
    compares = [make(key, revision) for key in keys for revision in (0, first, second) for make in makers]
    compares += [ops.exists(key) for key in keys] + [ops.value_is(key, value) for key in keys for value in (b"x", b"y", b"")]
    for prefix, revision in itertools.product((root + b"a/", root + b"none/"), (first - 1, first, second)):
        compares += [ops.range_is_empty(prefix), ops.nothing_created_after(prefix, revision)]
    for compare in compares:
        look = rpc_pb2.RangeRequest(key=compare.key, range_end=compare.range_end)
        found = await etcd.range(look)
        here = Guard(compare, lambda _: RuntimeError()).holds(Found(found.kvs, found.count))
        assert here == (await etcd.txn([compare])).succeeded, compare


def changes(reads: list[bytes], writes: list[bytes], ranges: list[bytes]) -> Changes:
    made = Changes()
    for key in reads:
        made.require(ops.exists(key), lambda _: RuntimeError())
    for prefix in ranges:
        made.require(ops.range_is_empty(prefix), lambda _: RuntimeError())
    for key in writes:
        made.put(key, b"")
    return made


@given(*[st.lists(KEYS, max_size=3) for _ in range(4)])
def test_changes_follow_others_only_if_they_look_at_nothing_those_write(
    reads: list[bytes], ranges: list[bytes], writes: list[bytes], earlier: list[bytes]
) -> None:
    is_free = not set(earlier) & {*reads, *writes} and not any(key.startswith(prefix) for key in earlier for prefix in ranges)
    assert changes(reads, writes, ranges).may_follow(changes([], earlier, [])) == is_free
