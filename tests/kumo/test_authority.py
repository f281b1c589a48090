"""The certificates that kumo.authority makes, judged by the TLS library that gRPC really uses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from kumo.authority import Authority, Pem, Subject, issue, load_authority, new_root
from kumo.identity import Identity
from kumo.tls import Credentials
from tests.pki import Pki

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@asynccontextmanager
async def listener(roots: bytes, own: Pem) -> AsyncIterator[int]:
    """Serve /test/Who, which answers with the caller's URI, to whoever has a certificate below `roots`."""

    async def who(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return b" ".join(context.auth_context().get("peer_spiffe_id", ()))

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    credentials = grpc.ssl_server_credentials([(own.key, own.cert)], roots, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def ask(port: int, credentials: Credentials, name: str) -> str:
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials.for_channel(), options=options) as channel:
        who: Any = channel.unary_unary("/test/Who")
        answer: bytes = await who(b"", timeout=5)
        return answer.decode()


async def is_refused(port: int, credentials: Credentials, name: str) -> bool:
    try:
        await ask(port, credentials, name)
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return True
    return False


async def test_a_client_of_its_plane_is_known_by_its_uri(pki: Pki) -> None:
    agent = pki.identity("a", "agent")
    async with listener(pki.root.cert_pem, pki.pem(agent)) as port:
        assert await ask(port, pki.credentials("a", "controller"), agent.dns) == "spiffe://a.local.kumo/controller/h1"


async def test_a_plane_cannot_speak_for_another_as_a_client(pki: Pki) -> None:
    agent = pki.identity("a", "agent")
    forged = Credentials(pki.root.cert_pem, pki.pem(pki.identity("a", "controller"), signed_by=pki.plane("b")))
    uri_only = issue(pki.plane("b"), Subject(uri="spiffe://a.local.kumo/controller/h1"), NOW, HOUR)
    async with listener(pki.root.cert_pem, pki.pem(agent)) as port:
        assert await is_refused(port, forged, agent.dns)
        assert await is_refused(port, Credentials(pki.root.cert_pem, uri_only), agent.dns)
        assert not await is_refused(port, pki.credentials("b", "controller"), agent.dns)


async def test_a_plane_cannot_speak_for_another_as_a_server(pki: Pki) -> None:
    agent = pki.identity("a", "agent")
    dns_only = issue(pki.plane("b"), Subject(dns=(agent.dns,)), NOW, HOUR)
    for forged in (pki.pem(agent, signed_by=pki.plane("b")), dns_only):
        async with listener(pki.root.cert_pem, forged) as port:
            assert await is_refused(port, pki.credentials("a", "controller"), agent.dns)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1"])
async def test_a_plane_cannot_speak_for_an_ip_address(pki: Pki, address: str) -> None:
    agent = pki.identity("a", "agent")
    with_address = issue(pki.plane("a"), Subject(uri=agent.uri, dns=(agent.dns,), addresses=(address,)), NOW, HOUR)
    async with listener(pki.root.cert_pem, with_address) as port:
        assert await is_refused(port, pki.credentials("a", "controller"), agent.dns)


async def test_a_leaf_cannot_sign(pki: Pki) -> None:
    agent = pki.identity("a", "agent")
    leaf = load_authority(*_parts(pki.pem(pki.identity("a", "controller", "h9"))))
    forged = issue(leaf, Subject(uri="spiffe://a.local.kumo/controller/h1"), NOW, HOUR)
    async with listener(pki.root.cert_pem, pki.pem(agent)) as port:
        assert await is_refused(port, Credentials(pki.root.cert_pem, forged), agent.dns)


async def test_a_plane_cannot_make_another_plane(pki: Pki) -> None:
    from kumo.authority import new_plane

    agent = pki.identity("a", "agent")
    below = new_plane(pki.plane("b"), "a", "local", NOW)
    chained = Authority((*below.certificates, *pki.plane("b").certificates), below.key, is_root=False)
    forged = pki.pem(pki.identity("a", "controller"), signed_by=chained)
    async with listener(pki.root.cert_pem, pki.pem(agent)) as port:
        assert await is_refused(port, Credentials(pki.root.cert_pem, forged), agent.dns)


async def test_an_expired_leaf_is_refused(pki: Pki) -> None:
    agent = pki.identity("a", "agent")
    past = issue(pki.plane("a"), Subject(uri="spiffe://a.local.kumo/controller/h1"), NOW - 2 * HOUR, HOUR)
    async with listener(pki.root.cert_pem, pki.pem(agent)) as port:
        assert await is_refused(port, Credentials(pki.root.cert_pem, past), agent.dns)


@pytest.mark.parametrize(("ahead", "is_taken"), [(HOUR, True), (3 * HOUR, False)])
async def test_what_a_clock_issued_that_is_an_hour_ahead_is_taken_and_the_control_is_not(
    pki: Pki, ahead: timedelta, is_taken: bool
) -> None:
    """Which is what a machine sees whose own clock is that much behind."""
    agent = pki.identity("a", "agent")
    made = issue(pki.plane("a"), Subject(uri="spiffe://a.local.kumo/controller/h1"), NOW + ahead, HOUR)
    async with listener(pki.root.cert_pem, pki.pem(agent)) as port:
        assert await is_refused(port, Credentials(pki.root.cert_pem, made), agent.dns) != is_taken


async def test_a_root_of_etcds_own_opens_nothing_else(pki: Pki) -> None:
    agent = pki.identity("a", "agent")
    etcd = new_root("Kumo etcd", NOW)
    client = issue(etcd, Subject(common_name="cell-a"), NOW, HOUR)
    async with listener(pki.root.cert_pem, pki.pem(agent)) as port:
        assert await is_refused(port, Credentials(pki.root.cert_pem, client), agent.dns)
    server = issue(etcd, Subject(common_name="etcd", addresses=("127.0.0.1",), dns=("localhost",)), NOW, HOUR)
    async with listener(etcd.cert_pem, server) as port, asyncio.timeout(10):
        assert await ask(port, Credentials(etcd.cert_pem, client), "localhost") == ""


def test_an_authority_survives_being_kept_as_pem(pki: Pki) -> None:
    again = load_authority(pki.plane("a").cert_pem, pki.plane("a").key_pem)
    assert again.certificate == pki.plane("a").certificate
    assert not again.is_root
    assert load_authority(pki.root.cert_pem, pki.root.key_pem).is_root


@pytest.mark.parametrize("cell", ["", "A", "a.b", "a/b", "-a", "x" * 64])
def test_a_label_that_cannot_stand_in_a_certificate_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a certificate"):
        Identity(cell, "local", "agent", "h1")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://a.local.kumo/agent",
        "spiffe://a.local.kumo/agent/h1/x",
        "https://a.local.kumo/agent/h1",
        "spiffe://a.local.other/agent/h1",
    ],
)
def test_an_identity_of_somebody_else_is_none_of_ours(uri: str) -> None:
    assert Identity.parse(uri) is None


def test_an_identity_is_read_as_it_was_written(pki: Pki) -> None:
    agent = pki.identity("a", "agent")
    assert Identity.parse(agent.uri) == agent


def _parts(pem: Pem) -> tuple[bytes, bytes]:
    return pem.cert, pem.key
