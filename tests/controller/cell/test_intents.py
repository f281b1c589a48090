"""What the cell takes from the region and what it refuses; and what it tells, from a token exactly."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.cell.v1.cell_pb2 import ApplyIntentRequest
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.network.v1.network_pb2 import Network
from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp, Term
from kumo.errors import Aborted, Error, FailedPrecondition, InvalidArgument
from kumo.ids import new_uid
from tests.controller.cell.up import up
from tests.controller.cell.world import Cloud, Region, bundle, running


def _network(generation: int = 1) -> Network:
    return Network(name="projects/default/networks/m", uid=new_uid(), generation=generation, spec=Network.Spec(vni=5))


async def _send(region: Region, network: Network, term: Term, *, sequence: int = 1, epoch: int = 0) -> Stamp:
    stamp = Stamp(term=term, sequence=sequence, epoch=Epoch(cell=epoch), generation=network.generation)
    request = ApplyIntentRequest(stamp=stamp, uid=network.uid)
    request.network.network.CopyFrom(network)
    async with region.channel() as dialled:
        return (await cell_pb2_grpc.IntentsStub(dialled).ApplyIntent(request, timeout=5.0)).held  # type: ignore[no-any-return]


async def test_a_command_that_is_behind_is_refused_and_the_answer_says_what_is_held(cloud: Cloud) -> None:
    region, old = cloud.region, new_uid()
    newer = Term(incarnation=new_uid(), create_revision=3)
    async with cloud.lead():
        network = _network(generation=4)
        held = await _send(region, network, newer, sequence=7, epoch=2)
        assert held.sequence == 7
        assert await _send(region, network, newer, sequence=7, epoch=2) == held, "the same again is taken"
        behind = (
            ("term", Term(incarnation=old, create_revision=9), 7, 2, 4),
            ("term", Term(incarnation=newer.incarnation, create_revision=2), 7, 2, 4),
            ("epoch", newer, 8, 1, 4),
            ("generation", newer, 8, 2, 3),
            ("sequence", newer, 6, 2, 4),
        )
        for number, term, sequence, epoch, generation in behind:
            network.generation = generation
            with pytest.raises(FailedPrecondition) as refused:
                await _send(region, network, term, sequence=sequence, epoch=epoch)
            said = refused.value.metadata
            assert (refused.value.reason, said["behind"]) == ("STALE_COMMAND", number)
            assert (said["held_sequence"], said["held_epoch_cell"], said["held_generation"]) == ("7", "2", "4")


async def test_a_command_about_another_thing_than_it_names_is_refused(cloud: Cloud) -> None:
    async with cloud.lead():
        network = _network()
        request = ApplyIntentRequest(stamp=Stamp(term=Term(incarnation=new_uid(), create_revision=1), generation=1), uid=new_uid())
        request.network.network.CopyFrom(network)
        async with cloud.region.channel() as dialled:
            with pytest.raises(InvalidArgument) as refused:
                await cell_pb2_grpc.IntentsStub(dialled).ApplyIntent(request, timeout=5.0)
        assert refused.value.reason == "UID_MISMATCH"


async def test_a_controller_that_does_not_lead_names_the_one_that_does(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with cloud.lead():
        follower = cloud.beside()
        async with follower.follow():
            async with asyncio.timeout(10):
                while True:
                    with pytest.raises(Error) as refused:
                        await _send(follower.region, _network(), cloud.region.term)
                    if refused.value.metadata.get("address"):
                        break
                    await asyncio.sleep(0.02)
            assert refused.value.reason == "NOT_LEADER"
            assert refused.value.metadata["address"] == cloud.region.address


async def test_what_ended_is_not_made_again_by_a_late_command(cloud: Cloud) -> None:
    async with cloud.lead(), running(cloud.region.follow()):
        region, network = cloud.region, _network()
        await region.apply("network", network)
        network.generation = 2
        gone = Network()
        gone.CopyFrom(network)
        gone.delete_time.GetCurrentTime()
        await region.apply("network", gone)
        await region.until(lambda: network.uid in region.ended, "it ended")
        with pytest.raises(FailedPrecondition) as refused:
            await region.apply("network", network)
        assert refused.value.reason == "STALE_COMMAND"
        await region.apply("network", gone)


async def test_the_cell_lists_what_it_holds(cloud: Cloud) -> None:
    async with cloud.lead():
        region, network = cloud.region, _network(3)
        await region.apply("network", network, epoch=2)
        async with region.channel() as dialled:
            held = [one async for one in cell_pb2_grpc.IntentsStub(dialled).ListHeld(cell_pb2.ListHeldRequest())]
        assert [(one.kind, one.uid, one.stamp.generation, one.stamp.epoch.cell) for one in held] == [("network", network.uid, 3, 2)]
        assert held[0].largest_term == region.term


async def _read(region: Region, token: str, until: Any) -> tuple[list[cell_pb2.Fact], str, bool]:
    """Read facts until `until(facts)`; return them, the last token, and whether all was sent."""
    facts: list[cell_pb2.Fact] = []
    complete = False
    async with region.channel() as dialled, asyncio.timeout(15):
        stream: Any = cell_pb2_grpc.IntentsStub(dialled).WatchFacts(cell_pb2.WatchFactsRequest(term=region.term, resume_token=token))
        while not until(facts, complete):
            message = await stream.read()
            facts += list(message.facts)
            complete = complete or message.complete
            token = message.resume_token or token
        stream.cancel()
    return facts, token, complete


async def test_a_watch_goes_on_from_its_token_without_gap_or_repeat_through_a_change_of_leaders(cloud: Cloud) -> None:
    async with AsyncExitStack() as stack:
        region = cloud.region
        async with cloud.lead():
            first = _network()
            await region.apply("network", first)

            def has_first(facts: list[cell_pb2.Fact], complete: bool) -> bool:
                return complete and any(fact.uid == first.uid and fact.network.status.state == Network.ACTIVE for fact in facts)

            _facts, token, complete = await _read(region, "", has_first)
            assert complete
            second = _network()
            second.name += "2"
            await region.apply("network", second)
        await stack.enter_async_context(cloud.lead())
        third = _network()
        third.name += "3"
        await region.apply("network", third)
        facts, _token, complete = await _read(region, token, lambda facts, _complete: any(f.uid == third.uid for f in facts))
        told = [fact.uid for fact in facts if fact.WhichOneof("of") == "network"]
        assert told.count(second.uid) == 1
        assert told.index(second.uid) < told.index(third.uid)
        assert not complete
        assert first.uid not in told


async def test_a_watch_that_is_idle_is_heard_each_second(cloud: Cloud) -> None:
    async with cloud.lead(), cloud.region.channel() as dialled:
        stream: Any = cell_pb2_grpc.IntentsStub(dialled).WatchFacts(cell_pb2.WatchFactsRequest(term=cloud.region.term))
        assert (await stream.read()).complete
        for _ in range(2):
            async with asyncio.timeout(3.0):
                assert not (await stream.read()).facts
        stream.cancel()


async def test_a_token_of_another_store_is_refused(cloud: Cloud) -> None:
    async with cloud.lead():
        _facts, token, _complete = await _read(cloud.region, "", lambda _facts, complete: complete)
    restored = cloud.beside(prefix=f"{cloud.prefix}-restored")
    async with restored.lead():
        with pytest.raises(Aborted) as refused:
            await _read(restored.region, token, lambda _facts, _complete: False)
        assert refused.value.reason == "RESUME_TOKEN_EXPIRED"
        with pytest.raises(InvalidArgument):
            await _read(restored.region, "nonsense", lambda _facts, _complete: False)


async def test_a_tombstone_goes_an_hour_after_it_was_acknowledged(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        region, wanted = world.region, bundle(base=world.base)
        await region.push(wanted)
        await region.until_state(wanted.server.uid, Server.ACTIVE)
        await region.delete(wanted)
        await region.until(lambda: wanted.server.uid in region.ended, "it ended")
        ends = await cloud.all_keys("record/end/")
        assert any(wanted.server.uid in key for key in ends), "kept until an hour has passed"
