"""Whoever watches facts is told all there is, then the last of each change, and that nothing changes."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from agent.facts import FactBook
from kumo.api.agent.v1.agent_pb2 import Facts, HostFacts
from kumo.api.agent.v1.compute_pb2 import ServerFacts
from kumo.api.agent.v1.network_pb2 import PortFacts


async def first(book: FactBook) -> Facts:
    async for facts in book.watch():
        return facts
    raise AssertionError("a watch does not end")


async def test_a_watch_is_complete_once_every_role_said_what_it_has() -> None:
    book = FactBook(frozenset({"compute", "network"}))
    book.set_server(ServerFacts(uid="s"))
    book.list_is_known("compute")
    assert not (await first(book)).complete
    watch = book.watch()
    assert not (await anext(watch)).complete
    book.list_is_known("network")
    assert (await anext(watch)).complete
    assert (await first(book)).complete
    await watch.aclose()


async def test_what_changes_twice_between_two_messages_is_told_once_as_it_is_last() -> None:
    book = FactBook(frozenset())
    watch = book.watch()
    assert (await anext(watch)).complete
    for reboots in (1, 2):
        book.set_server(ServerFacts(uid="s", reboots=reboots))
    told = await anext(watch)
    assert [said.reboots for said in told.servers] == [2]
    await watch.aclose()


async def test_what_is_said_again_unchanged_is_not_told() -> None:
    book = FactBook(frozenset())
    book.set_server(ServerFacts(uid="s"))
    book.set_host(HostFacts(host="h1"))
    watch = book.watch()
    await anext(watch)
    book.set_server(ServerFacts(uid="s"))
    book.set_host(HostFacts(host="h1"))
    beat = await anext(watch)
    assert not beat.servers and not beat.HasField("host") and beat.HasField("send_time")
    await watch.aclose()


async def test_whoever_asked_is_told_of_each_port_that_changed() -> None:
    book = FactBook(frozenset())
    told: list[str] = []
    book.on_port_change(told.append)
    for binding in (PortFacts.UNBOUND, PortFacts.UNBOUND, PortFacts.BOUND):
        book.set_port(PortFacts(uid="p", binding=binding))
    assert told == ["p", "p"]


CHANGES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=20)


@given(changes=CHANGES)
def test_a_watcher_ends_up_with_what_the_book_has(changes: list[tuple[str, int, bool]]) -> None:
    async def work() -> None:
        book = FactBook(frozenset())
        seen: dict[str, int] = {}
        watch = book.watch()

        async def read() -> None:
            seen.update({said.uid: said.reboots for said in (await anext(watch)).servers})

        told = 0
        for count, (uid, reboots, then_read) in enumerate(changes):
            before = book.server(uid)
            book.set_server(ServerFacts(uid=uid, reboots=reboots))
            told = told if before == book.server(uid) else count + 1
            if then_read and told == count + 1:
                await read()
        book.set_server(ServerFacts(uid="end", reboots=9))
        while "end" not in seen:
            await read()
        assert seen == {uid: held.reboots for uid in ("a", "b", "c", "end") if (held := book.server(uid)) is not None}
        await watch.aclose()

    asyncio.run(work())
