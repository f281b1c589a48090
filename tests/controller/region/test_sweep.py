"""What grows is kept within bounds: events by age and number, request ids by age."""

from datetime import timedelta

from controller.region import requests
from controller.region.sweep import GONE, MOST_AGE, MOST_OF_A_SUBJECT, MOST_OF_GONE, Sweep, to_remove
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.clock import SystemClock
from kumo.ids import new_uid
from tests.controller.region.region_process import Rig, server_request


async def test_only_the_latest_events_of_a_subject_stay_and_none_for_ever(rig: Rig) -> None:
    region = rig.region
    term = region.plane.election.term
    assert term is not None
    subject = Server(name="projects/default/servers/noisy", uid=new_uid())
    for start in range(0, MOST_OF_A_SUBJECT + 10, 10):
        txn = region.plane.txn()
        for number in range(start, start + 10):
            region.events.add(txn, subject, f"NUMBER_{number}", "it happened")
        await txn.commit()
    sweep, now = Sweep(region.plane, region.tables.events, term, SystemClock()), SystemClock().now()
    await sweep.sweep(now)
    kept = [event.reason for event in await region.tables.events.find("subject", subject.uid)]
    assert kept == [f"NUMBER_{number}" for number in range(10, MOST_OF_A_SUBJECT + 10)]
    await sweep.sweep(now + MOST_AGE + timedelta(hours=1))
    assert not await region.tables.events.uids()


def test_of_all_that_is_gone_only_so_much_is_kept_and_nothing_of_what_is_there_goes_for_it() -> None:
    now = SystemClock().now()

    def event(subject: str, reason: str) -> Event:
        made = Event(uid=new_uid(), subject_uid=subject, reason=reason)
        made.create_time.FromDatetime(now)
        return made

    there = [event("there", "CREATED") for _ in range(3)]
    gone = [event(f"gone{number}", reason) for number in range(MOST_OF_GONE) for reason in ("CREATED", GONE)]
    removed = {one.uid for one in to_remove([*gone, *there], now)}
    assert removed == {one.uid for one in gone[:MOST_OF_GONE]}, "the oldest"
    assert to_remove([*gone[MOST_OF_GONE:], *there], now) == []


async def test_requests_are_forgotten_after_a_day(rig: Rig) -> None:
    request = server_request("web", request_id=new_uid())
    await rig.api.servers.CreateServer(request)
    plane, now = rig.region.plane, SystemClock().now()
    assert len(await rig.keys("request/")) == 1
    assert await requests.sweep(plane, plane.election.term, now + timedelta(hours=23)) == 0
    assert await requests.sweep(plane, plane.election.term, now + timedelta(hours=25)) == 1
    assert await rig.keys("request/") == []
