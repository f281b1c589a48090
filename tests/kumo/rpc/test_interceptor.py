"""The one interceptor, on a real listener, called through the real channel."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import grpc
import pytest
from prometheus_client import REGISTRY

from kumo import log
from kumo.api.compute.v1 import server_pb2, server_pb2_grpc
from kumo.api.fleet.v1 import host_pb2
from kumo.errors import (
    CLASSES,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from kumo.identity import Identity
from kumo.rpc.call import Audience, Call, Principal, current_call
from kumo.rpc.client import opened
from kumo.rpc.identity import Context, PeerRule, Peers, everyone_is_operator
from kumo.rpc.interceptor import Limits
from tests.kumo.rpc.doubles import Answers, call, serving
from tests.pki import Pki

SERVERS = server_pb2.DESCRIPTOR.services_by_name["Servers"]
HOSTS = host_pb2.DESCRIPTOR.services_by_name["Hosts"]
GET = SERVERS.methods_by_name["GetServer"]
CREATE = SERVERS.methods_by_name["CreateServer"]
UPDATE = SERVERS.methods_by_name["UpdateServer"]
LIST = SERVERS.methods_by_name["ListServers"]
WATCH = SERVERS.methods_by_name["WatchServers"]
CONSOLE = SERVERS.methods_by_name["AttachConsole"]

NAME = "projects/p/servers/s"
ASK = server_pb2.GetServerRequest(name=NAME)
TENANT = Principal("alice", Audience.TENANT, frozenset({"projects/p"}))


def tenant(_context: Context) -> Principal:
    return TENANT


def full_server() -> server_pb2.Server:
    """Return a server with something in it for every audience."""
    status = server_pb2.Server.Status(host="hosts/h1", virt_type="kvm", cell_epoch=3, power=server_pb2.Server.RUNNING)
    status.conditions.add(type="Placed", message="it is placed", operator_message="hosts/h1 had room")
    return server_pb2.Server(name=NAME, spec=valid_spec(user_data=b"#!/bin/sh"), status=status)


def valid_spec(**more: object) -> server_pb2.Server.Spec:
    nics = [server_pb2.Server.Nic(network="projects/p/networks/n")]
    return server_pb2.Server.Spec(flavor="flavors/small", image="projects/p/images/deb", nics=nics, **more)  # type: ignore[arg-type]


def valid_create(**more: object) -> server_pb2.CreateServerRequest:
    server = server_pb2.Server(spec=valid_spec())
    return server_pb2.CreateServerRequest(parent="projects/p", server_id="s", server=server, **more)  # type: ignore[arg-type]


@contextmanager
def captured_log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log.JsonFormatter("test"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel("INFO")
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def raising(error: BaseException) -> Answers:
    def fail(_request: object) -> None:
        raise error

    return Answers({method.name: fail for method in SERVERS.methods})


async def test_the_text_of_an_unexpected_exception_never_reaches_a_client_but_the_log(pki: Pki) -> None:
    answers = raising(ValueError("canary-5e1f"))
    with captured_log() as written:
        async with serving(pki, [SERVERS], answers) as dialled:
            for method, request in (
                (GET, ASK),
                (LIST, server_pb2.ListServersRequest(parent="projects/p")),
                (WATCH, server_pb2.WatchServersRequest(parent="projects/p")),
                (CONSOLE, [server_pb2.AttachConsoleRequest(name=NAME)]),
            ):
                with pytest.raises(Internal) as caught:
                    await call(dialled, method, request)
                assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
                everything = repr(caught.value.__cause__) + repr(caught.value.__dict__)
                assert "canary" not in everything and "ValueError" not in everything
                incident = caught.value.metadata["incident"]
                assert any("canary-5e1f" in line and incident in line for line in written.getvalue().splitlines())


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not Internal])
async def test_an_error_arrives_as_it_was_raised(pki: Pki, cls: type[Error]) -> None:
    raised = cls(
        "SOME_REASON", "what happened, with 3 of 4", field="server.spec.image", fix="do this", image="projects/p/images/i", count=3
    )
    async with serving(pki, [SERVERS], raising(raised)) as dialled:
        for method, request in ((GET, ASK), (WATCH, server_pb2.WatchServersRequest(parent="projects/p"))):
            with pytest.raises(cls) as caught:
                await call(dialled, method, request)
            assert type(caught.value) is cls
            assert caught.value.__dict__ == raised.__dict__


async def test_a_violation_names_field_rule_and_value(pki: Pki) -> None:
    request = valid_create()
    request.server.spec.disk_gib = -1
    request.server.spec.nics[0].network = "nonsense"
    answers = Answers()
    async with serving(pki, [SERVERS], answers) as dialled:
        with pytest.raises(InvalidArgument) as caught:
            await call(dialled, CREATE, request)
    assert answers.seen == []
    assert caught.value.reason == "FIELD_INVALID"
    assert caught.value.field == "server.spec.nics[0].network"
    assert caught.value.metadata == {"rule": "string.pattern", "value": "'nonsense'"}
    assert "'nonsense'" in caught.value.message and "1 more" in caught.value.message


async def test_the_value_of_a_secret_is_never_shown(pki: Pki) -> None:
    request = valid_create()
    request.server.spec.user_data = b"canary" * 20_000
    async with serving(pki, [SERVERS], Answers()) as dialled:
        with pytest.raises(InvalidArgument) as caught:
            await call(dialled, CREATE, request)
    assert caught.value.field == "server.spec.user_data"
    assert "canary" not in repr(caught.value.__cause__) + repr(caught.value.__dict__)


async def test_what_only_kumo_sets_is_ignored_in_a_request(pki: Pki) -> None:
    request = valid_create()
    request.server.name, request.server.uid, request.server.generation = "nonsense", "nonsense", 7
    request.server.status.CopyFrom(full_server().status)
    request.server.spec.vcpus = 99
    request.server.spec.nics[0].network_uid = "nonsense"
    answers = Answers()
    async with serving(pki, [SERVERS], answers) as dialled:
        await call(dialled, CREATE, request)
    assert answers.seen == [valid_create()]


async def test_an_update_is_checked_only_where_its_mask_looks(pki: Pki) -> None:
    answers = Answers()
    request = server_pb2.UpdateServerRequest(server=server_pb2.Server(name=NAME, labels={"a": "b"}))
    async with serving(pki, [SERVERS], answers) as dialled:
        with pytest.raises(InvalidArgument) as caught:
            await call(dialled, UPDATE, request)
        assert caught.value.field == "server.spec"
        request.update_mask.paths.append("labels")
        await call(dialled, UPDATE, request)
        request.server.labels["a"] = "b" * 300
        with pytest.raises(InvalidArgument) as caught:
            await call(dialled, UPDATE, request)
        assert caught.value.field == 'server.labels["a"]'
    assert len(answers.seen) == 1 and answers.seen[0].server.name == NAME


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nonsense", "FIELD_UNKNOWN"),
        ("spec.nonsense", "FIELD_UNKNOWN"),
        ("uid", "FIELD_OUTPUT_ONLY"),
        ("name", "FIELD_OUTPUT_ONLY"),
        ("status.state", "FIELD_OUTPUT_ONLY"),
        ("spec.power", "FIELD_OUTPUT_ONLY"),
    ],
)
async def test_a_mask_may_name_only_what_a_client_may_change(pki: Pki, path: str, reason: str) -> None:
    request = server_pb2.UpdateServerRequest(server=server_pb2.Server(name=NAME))
    request.update_mask.paths.append(path)
    async with serving(pki, [SERVERS], Answers()) as dialled:
        with pytest.raises(InvalidArgument) as caught:
            await call(dialled, UPDATE, request)
    assert (caught.value.reason, caught.value.field, caught.value.metadata["value"]) == (reason, "update_mask", path)


async def test_a_tenant_sees_no_more_than_is_a_tenants_in_answers_lists_and_streams(pki: Pki) -> None:
    original = full_server()
    answers = Answers(
        {
            "GetServer": lambda _request: original,
            "ListServers": lambda _request: server_pb2.ListServersResponse(servers=[original, original]),
            "WatchServers": lambda _request: [server_pb2.WatchServersResponse(server=original)] * 2,
        }
    )
    wanted = full_server()
    for path in ("host", "virt_type", "cell_epoch"):
        wanted.status.ClearField(path)
    wanted.status.conditions[0].ClearField("operator_message")
    wanted.spec.ClearField("user_data")
    async with serving(pki, [SERVERS], answers, principal_of=tenant) as dialled:
        assert await call(dialled, GET, ASK) == wanted
        assert list((await call(dialled, LIST, server_pb2.ListServersRequest(parent="projects/p"))).servers) == [wanted, wanted]
        changes = await call(dialled, WATCH, server_pb2.WatchServersRequest(parent="projects/p"))
        assert [change.server for change in changes] == [wanted, wanted]
    assert original == full_server(), "what the servicer holds is not touched: others read it"


async def test_an_operator_sees_hosts_but_neither_secrets_nor_internals(pki: Pki) -> None:
    async with serving(pki, [SERVERS], Answers({"GetServer": lambda _request: full_server()})) as dialled:
        answer = await call(dialled, GET, ASK)
    assert answer.status.host == "hosts/h1" and answer.status.conditions[0].operator_message
    assert answer.status.cell_epoch == 0 and answer.spec.user_data == b""


async def test_a_field_that_this_process_does_not_know_is_not_shown(pki: Pki) -> None:
    newer = server_pb2.Server.FromString(full_server().SerializeToString() + b"\xfa\x3f\x06canary")
    newer.spec.MergeFromString(b"\xfa\x3f\x06canary")
    assert newer.SerializeToString().count(b"canary") == 2
    answers = Answers({"GetServer": lambda _request: newer})
    for principal_of in (tenant, everyone_is_operator):
        async with serving(pki, [SERVERS], answers, principal_of=principal_of) as dialled:
            assert b"canary" not in (await call(dialled, GET, ASK)).SerializeToString()
    assert newer.SerializeToString().count(b"canary") == 2


async def test_a_tenant_learns_no_host_from_an_error(pki: Pki) -> None:
    raised = FailedPrecondition("NO_ROOM", "hosts/h1 has 2 of 4 vcpus", fix="drain hosts/h2", host="hosts/h1", value="on hosts/h1", vcpus=4)
    async with serving(pki, [SERVERS, HOSTS], raising(raised), principal_of=tenant) as dialled:
        with pytest.raises(FailedPrecondition) as caught:
            await call(dialled, GET, ASK)
    assert "h1" not in repr(caught.value.__cause__) and "h2" not in repr(caught.value.__cause__)
    assert caught.value.metadata == {"vcpus": "4", "value": "on one of the hosts"}
    assert caught.value.message == "one of the hosts has 2 of 4 vcpus"


async def test_a_tenant_may_not_call_what_is_an_operators(pki: Pki) -> None:
    get_host = HOSTS.methods_by_name["GetHost"]
    watch = HOSTS.methods_by_name["WatchHosts"]
    answers = Answers()
    async with serving(pki, [HOSTS], answers, principal_of=tenant) as dialled:
        for method, request in ((get_host, host_pb2.GetHostRequest(name="hosts/h1")), (watch, host_pb2.WatchHostsRequest())):
            with pytest.raises(PermissionDenied) as caught:
                await call(dialled, method, request)
            assert caught.value.reason == "METHOD_NOT_YOURS"
    assert answers.seen == []
    async with serving(pki, [HOSTS], answers) as dialled:
        await call(dialled, get_host, host_pb2.GetHostRequest(name="hosts/h1"))


async def test_a_principal_has_a_limit_of_calls_in_flight_and_another_of_streams(pki: Pki) -> None:
    gate, inside = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(_request: object) -> server_pb2.Server:
        inside.release()
        await gate.wait()
        return server_pb2.Server()

    async def endless(_request: object) -> AsyncIterator[server_pb2.WatchServersResponse]:
        async def changes() -> AsyncIterator[server_pb2.WatchServersResponse]:
            yield server_pb2.WatchServersResponse()
            await gate.wait()

        return changes()

    watch = server_pb2.WatchServersRequest(parent="projects/p")
    answers = Answers({"GetServer": wait, "WatchServers": endless})
    async with serving(pki, [SERVERS], answers, limits=Limits(unary=2, streams=1)) as dialled, asyncio.timeout(30):
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(call(dialled, GET, ASK)) for _ in range(2)]
            for _ in waiting:
                await inside.acquire()
            with pytest.raises(ResourceExhausted) as caught:
                await call(dialled, GET, ASK)
            assert caught.value.metadata["limit"] == "2"
            async with opened(server_pb2_grpc.ServersStub(dialled).WatchServers(watch)) as stream:
                await stream.read()  # the limit of streams is another one
                with pytest.raises(ResourceExhausted):
                    await call(dialled, WATCH, watch)
            gate.set()
        assert [await task for task in waiting] == [server_pb2.Server()] * 2
        await call(dialled, GET, ASK)
        await inside.acquire()  # the place was given back


async def test_calls_are_counted_by_their_code(pki: Pki) -> None:
    def count(code: str) -> float:
        labels = {"service": SERVERS.full_name, "method": "GetServer", "code": code}
        return REGISTRY.get_sample_value("kumo_rpc_requests_total", labels) or 0.0

    before = {code: count(code) for code in ("OK", "NOT_FOUND", "INVALID_ARGUMENT")}
    async with serving(pki, [SERVERS], Answers()) as dialled:
        await call(dialled, GET, ASK)
        with pytest.raises(InvalidArgument):
            await call(dialled, GET, server_pb2.GetServerRequest())
    async with serving(pki, [SERVERS], raising(NotFound("SERVER_UNKNOWN", "no such server"))) as dialled:
        with pytest.raises(NotFound):
            await call(dialled, GET, ASK)
    assert {code: count(code) - was for code, was in before.items()} == {"OK": 1, "NOT_FOUND": 1, "INVALID_ARGUMENT": 1}


async def test_the_request_id_of_a_client_is_kept_and_logged_and_a_bad_one_is_replaced(pki: Pki) -> None:
    seen: list[Call] = []

    def note(_request: object) -> server_pb2.Server:
        seen.append(current_call())
        raise NotFound("SERVER_UNKNOWN", "no such server")

    with captured_log() as written:
        async with serving(pki, [SERVERS], Answers({"GetServer": note})) as dialled:
            for own in ("abc-123", "bad id", "x" * 65):
                with pytest.raises(NotFound):
                    await call(dialled, GET, ASK, metadata=(("x-request-id", own),))
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    refused = [line for line in lines if line["event"] == "call refused"]
    assert [line["request_id"] for line in refused] == [call_seen.request_id for call_seen in seen]
    assert refused[0]["principal"] == "operator" and refused[0]["reason"] == "SERVER_UNKNOWN"
    assert seen[0].request_id == "abc-123" and seen[1].request_id != "bad id" and len(seen[2].request_id) == 36


async def test_between_processes_records_travel_whole(pki: Pki) -> None:
    peers = Peers([PeerRule("a", "local")])
    answers = Answers({"GetServer": lambda _request: full_server()})
    request = valid_create()
    request.server.status.host = "hosts/h1"
    async with serving(pki, [SERVERS], answers, principal_of=peers, public=False) as dialled:
        assert await call(dialled, GET, ASK) == full_server()
        await call(dialled, CREATE, request)
    assert answers.seen[-1] == request


async def test_a_peer_of_another_role_or_cell_is_not_admitted_and_a_removed_one_no_longer(pki: Pki) -> None:
    removed: set[Identity] = set()
    async with serving(pki, [SERVERS], Answers(), principal_of=Peers([PeerRule("a", "local", "agent")]), public=False) as dialled:
        with pytest.raises(PermissionDenied) as caught:
            await call(dialled, GET, ASK)
        assert caught.value.reason == "PEER_NOT_ADMITTED"
    peers = Peers([PeerRule("a", "local")], removed.__contains__)
    async with serving(pki, [SERVERS], Answers(), principal_of=peers, public=False) as dialled:
        await call(dialled, GET, ASK)
        removed.add(pki.identity("a", "controller"))
        with pytest.raises(PermissionDenied) as caught:
            await call(dialled, GET, ASK)
        assert caught.value.reason == "PEER_REMOVED"


async def test_without_a_certificate_nobody_is_a_peer(pki: Pki) -> None:
    async with serving(pki, [SERVERS], Answers(), principal_of=Peers([PeerRule("a", "local")])) as dialled:
        with pytest.raises(Unauthenticated):
            await call(dialled, GET, ASK)
