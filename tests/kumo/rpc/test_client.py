"""The channel: what it passes on, how soon it notices, and what it makes of failures."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kumo.api.compute.v1 import server_pb2, server_pb2_grpc
from kumo.errors import DeadlineExceeded, Error, Unavailable
from kumo.rpc.call import CALL, Call, current_call
from kumo.rpc.client import DEADLINE_MARGIN_S, channel
from kumo.tls import TlsFiles
from tests.kumo.rpc.doubles import Answers, call, serving
from tests.pki import Pki

SERVERS = server_pb2.DESCRIPTOR.services_by_name["Servers"]
GET = SERVERS.methods_by_name["GetServer"]
WATCH = SERVERS.methods_by_name["WatchServers"]
ASK = server_pb2.GetServerRequest(name="projects/p/servers/s")
WATCH_ALL = server_pb2.WatchServersRequest(parent="projects/p")
FIRST = server_pb2.WatchServersResponse(resume_token="1")

# The promise is 5 s; a loaded machine is allowed three times that.
NOTICED_WITHIN_S = 15.0


@pytest.fixture
async def peer(pki: Pki, tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process to freeze, and its address."""
    TlsFiles.in_folder(tmp_path, "peer").write(pki.root.cert_pem, pki.pem(pki.identity("region", "controller")))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.kumo.rpc.frozen_peer", str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            port = int(await process.stdout.readline())
        yield process, f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # or its pipe is reported as a leak


async def test_a_peer_that_froze_is_noticed_by_a_watch_a_call_and_a_newcomer(
    pki: Pki, peer: tuple[asyncio.subprocess.Process, str]
) -> None:
    process, address = peer
    name = pki.identity("region", "controller").dns
    async with channel(address, pki.root.cert_pem, server_name=name) as dialled:
        stub = server_pb2_grpc.ServersStub(dialled)
        watch = stub.WatchServers(WATCH_ALL)
        assert await watch.read() == FIRST
        # Silent for four pings: neither "too many pings", nor an end of pings because no data flows.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(8.5):
                await watch.read()
        watch = stub.WatchServers(WATCH_ALL)
        assert await watch.read() == FIRST
        process.send_signal(signal.SIGSTOP)
        frozen_at = time.monotonic()
        async with channel(address, pki.root.cert_pem, server_name=name) as newcomer:
            newcomers = server_pb2_grpc.ServersStub(newcomer)
            waits = (watch.read(), stub.GetServer(ASK, timeout=60), newcomers.GetServer(ASK, timeout=60))
            noticed = await asyncio.gather(*(_failure_of(wait) for wait in waits))
    for error, at in noticed:
        assert isinstance(error, Unavailable), error
        assert at - frozen_at < NOTICED_WITHIN_S


async def _failure_of(wait: object) -> tuple[BaseException | None, float]:
    try:
        await wait  # type: ignore[misc]  # whatever can be awaited
    except Error as error:
        return error, time.monotonic()
    return None, time.monotonic()


async def test_a_peer_that_was_killed_is_unavailable(pki: Pki, peer: tuple[asyncio.subprocess.Process, str]) -> None:
    process, address = peer
    async with channel(address, pki.root.cert_pem, server_name=pki.identity("region", "controller").dns) as dialled:
        stub = server_pb2_grpc.ServersStub(dialled)
        watch = stub.WatchServers(WATCH_ALL)
        await watch.read()
        process.kill()
        with pytest.raises(Unavailable):
            await watch.read()
        with pytest.raises(Unavailable):
            await stub.GetServer(ASK)


async def test_deadline_and_request_id_pass_on_over_two_hops(pki: Pki) -> None:
    seen: list[Call] = []

    async def last(_request: object) -> server_pb2.Server:
        seen.append(current_call())
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(pki, [SERVERS], Answers({"GetServer": last})) as to_last:

        async def middle(_request: object) -> server_pb2.Server:
            seen.append(current_call())
            answer: server_pb2.Server = await call(to_last, GET, ASK, timeout=300)
            return answer

        async with serving(pki, [SERVERS], Answers({"GetServer": middle})) as to_middle:
            with pytest.raises(DeadlineExceeded):
                await call(to_middle, GET, ASK, timeout=1.0, metadata=(("x-request-id", "two-hops"),))
    assert [hop.request_id for hop in seen] == ["two-hops", "two-hops"]
    deadlines = [hop.deadline for hop in seen]
    assert deadlines[0] is not None and deadlines[1] is not None
    assert deadlines[1] < deadlines[0]


async def test_no_call_is_made_when_no_time_is_left(pki: Pki) -> None:
    answers = Answers()
    raised: list[Exception] = []

    async with serving(pki, [SERVERS], answers) as to_last:

        async def late(_request: object) -> server_pb2.Server:
            # Not slept for: on a busy machine the call would be over before its time is nearly up.
            CALL.set(replace(current_call(), deadline=time.monotonic() + DEADLINE_MARGIN_S / 2))
            try:
                await call(to_last, GET, ASK)
            except DeadlineExceeded as error:
                raised.append(error)
                raise
            raise AssertionError

        async with serving(pki, [SERVERS], Answers({"GetServer": late})) as to_middle:
            with pytest.raises(DeadlineExceeded):
                await call(to_middle, GET, ASK, timeout=20)
    assert answers.seen == []
    assert [error.reason for error in raised if isinstance(error, DeadlineExceeded)] == ["NO_TIME_LEFT"]


async def test_a_handler_that_was_interrupted_answers_all_the_same(pki: Pki) -> None:
    async def give_up(_request: object) -> server_pb2.Server:
        raise asyncio.CancelledError

    async with serving(pki, [SERVERS], Answers({"GetServer": give_up, "WatchServers": give_up})) as dialled:
        for method, request in ((GET, ASK), (WATCH, WATCH_ALL)):
            with pytest.raises(Unavailable) as caught:
                await call(dialled, method, request)
            assert caught.value.reason == "INTERRUPTED"


async def test_a_callers_own_cancellation_stays_one(pki: Pki) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait(_request: object) -> server_pb2.Server:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with serving(pki, [SERVERS], Answers({"GetServer": wait})) as dialled, asyncio.timeout(30):
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(call(dialled, GET, ASK))
            await began.wait()
            task.cancel()
        assert task.cancelled()
        await ended.wait()


async def test_nobody_listening_is_unavailable_at_once(pki: Pki) -> None:
    async with channel("127.0.0.1:1", pki.root.cert_pem, server_name="x") as dialled:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await call(dialled, GET, ASK)
        assert time.monotonic() - started < NOTICED_WITHIN_S


async def test_a_call_on_a_channel_that_was_closed_is_unavailable_and_no_bug(pki: Pki) -> None:
    dialled = channel("127.0.0.1:1", pki.root.cert_pem, server_name="nobody")
    stub = server_pb2_grpc.ServersStub(dialled)
    await dialled.close()
    with pytest.raises(Unavailable) as answered:
        await stub.GetServer(ASK)
    assert answered.value.reason == "CHANNEL_CLOSED"
    with pytest.raises(Unavailable) as opened:
        stub.WatchServers(WATCH_ALL)
    assert opened.value.reason == "CHANNEL_CLOSED"
