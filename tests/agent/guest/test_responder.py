"""The responder as a process, in front of guests on real links: what it tells whom, and what it survives."""

import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.guest.exposition import Metrics
from agent.guest.files import ServerMetadata
from agent.guest.main import read_config
from agent.network import names
from kumo.api.agent.v1.network_pb2 import PortFacts
from kumo.ids import new_uid
from tests.agent.network.lab import (
    Guest,
    Lab,
    ResponderProcess,
    ask_dhcp,
    dhcp_frame,
    dhcp_message,
    lease,
    own_host,
    shell,
    wait_for,
)
from tests.agent.network.rig import Rig, kernel_driver, running

ALICE, BOB = "02:aa:00:00:00:11", "02:aa:00:00:00:12"
A, B = "10.0.0.11", "10.0.0.12"


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    try:
        with own_host():
            yield made
    finally:
        made.remove()


@pytest.fixture
def responder(lab: Lab) -> Iterator[ResponderProcess]:
    """Started before there is any network, as after a boot."""
    process = ResponderProcess(lab)
    make_rig(lab, process).guests.prepare()
    process.start()
    try:
        yield process
    finally:
        process.kill()


@dataclass
class Place:
    """Alice and Bob on one network, Dan on another with Alice's MAC and address."""

    lab: Lab
    rig: Rig
    responder: ResponderProcess
    alice: Guest
    bob: Guest
    dan: Guest
    servers: dict[str, str]


def make_rig(lab: Lab, responder: ResponderProcess) -> Rig:
    return Rig(lab.directory, kernel_driver(lab.directory, lab.namespaces), responder=responder.socket, group=64104)


async def add(lab: Lab, rig: Rig, network: str, name: str, mac: str, address: str) -> tuple[Guest, str]:
    """Make a server with metadata of its own, plugged in but with no address yet; return it and the server's uid."""
    port, server = new_uid(), new_uid()
    rig.guests.write_server(server, ServerMetadata(name=name, hostname=name, user_data=name.encode(), ssh_keys=(f"ssh-ed25519 {name}",)))
    await rig.put_port(port, network, mac, address, server_uid=server)
    await rig.until(port, PortFacts.BOUND)
    guest = lab.guest(port, mac, address)
    assert lab.hook(guest.tap).returncode == 0
    return guest, server


@pytest.fixture
async def place(lab: Lab, responder: ResponderProcess) -> AsyncIterator[Place]:
    async with running(make_rig(lab, responder)) as rig:
        network, other = new_uid(), new_uid()
        await rig.put_network(network, 0x41)
        await rig.put_network(other, 0x42)
        alice, alices = await add(lab, rig, network, "alice", ALICE, A)
        bob, bobs = await add(lab, rig, network, "bob", BOB, B)
        dan, dans = await add(lab, rig, other, "dan", ALICE, A)
        yield Place(lab, rig, responder, alice, bob, dan, {"alice": alices, "bob": bobs, "dan": dans})


def may(command: str, path: Path) -> bool:
    """Return whether the responder's user can do this."""
    as_user = ["setpriv", "--reuid=64104", "--regid=64104", "--clear-groups", command, str(path)]
    return subprocess.run(as_user, capture_output=True, timeout=10, check=False).returncode == 0


def address_of(guest: Guest) -> str | None:
    given = lease(guest)
    return given.address if given is not None else None


async def test_each_guest_is_given_exactly_its_address_and_reads_itself(place: Place) -> None:
    for guest, name in ((place.alice, "alice"), (place.bob, "bob"), (place.dan, "dan")):
        given = lease(guest)
        assert given is not None and (given.address, given.options[12]) == (guest.address, b"guest")
        guest.configure()
        assert guest.get("/latest/meta-data/instance-id") == (200, place.servers[name].encode())
        assert guest.get("/latest/user-data") == (200, name.encode())
        assert guest.get("/latest/meta-data/public-keys/0/openssh-key") == (200, f"ssh-ed25519 {name}".encode())
        told = json.loads(guest.get("/openstack/latest/meta_data.json")[1])
        assert told["uuid"] == place.servers[name]


async def test_no_header_and_no_other_address_makes_a_guest_another(place: Place) -> None:
    place.bob.configure(f"{A}/32")  # Bob gives himself Alice's address too
    forged = f"X-Forwarded-For: {A}\r\nX-Instance-ID: {place.servers['alice']}\r\nX-Real-IP: {A}\r\nForwarded: for={A}\r\n"
    assert place.bob.get("/latest/meta-data/hostname", headers=forged) == (200, b"bob")
    assert place.bob.get("/latest/meta-data/hostname", source=A, timeout_s=0.5) == (0, b"")
    assert place.bob.get("/latest/meta-data/hostname") == (200, b"bob")


async def test_a_token_is_of_one_guest(place: Place) -> None:
    place.alice.configure()
    place.bob.configure()
    code, token = place.alice.get("/latest/api/token", method="PUT", headers="X-aws-ec2-metadata-token-ttl-seconds: 60\r\n")
    assert code == 200
    header = f"X-aws-ec2-metadata-token: {token.decode()}\r\n"
    assert place.alice.get("/latest/meta-data/hostname", headers=header) == (200, b"alice")
    assert place.bob.get("/latest/meta-data/hostname", headers=header)[0] == 401
    assert place.alice.get("/latest/api/token", method="PUT")[0] == 400


async def test_a_guest_says_that_it_is_ready(place: Place) -> None:
    place.alice.configure()
    mark = place.rig.guests.ready / place.servers["alice"]
    assert not mark.exists()
    assert place.alice.get("/kumo/v1/ready")[0] == 404
    assert place.alice.get("/kumo/v1/ready", method="PUT") == (200, b"ok\n")
    assert mark.exists()
    assert {path.name for path in place.rig.guests.ready.iterdir()} == {place.servers["alice"]}


async def test_guests_are_answered_without_an_agent_and_after_a_kill(lab: Lab, responder: ResponderProcess) -> None:
    async with running(make_rig(lab, responder)) as rig:
        network = new_uid()
        await rig.put_network(network, 0x41)
        alice, server = await add(lab, rig, network, "alice", ALICE, A)
    # No agent runs from here on.
    assert address_of(alice) == A
    alice.configure()
    assert alice.get("/kumo/v1/ready", method="PUT")[0] == 200
    assert [path.name for path in rig.guests.ready.iterdir()] == [server]
    assert alice.get("/latest/meta-data/hostname") == (200, b"alice")
    responder.kill(9)
    assert alice.get("/latest/meta-data/hostname", timeout_s=0.3)[0] == 0
    responder.start()
    assert address_of(alice) == A
    assert alice.get("/latest/meta-data/hostname") == (200, b"alice")


async def test_a_network_made_while_the_responder_is_away_is_found(lab: Lab, responder: ResponderProcess) -> None:
    async with running(make_rig(lab, responder)) as rig:
        responder.kill(9)
        network = new_uid()
        await rig.put_network(network, 0x41)
        alice, _ = await add(lab, rig, network, "alice", ALICE, A)
        responder.start()
        assert address_of(alice) == A
        alice.configure()
        assert alice.get("/latest/meta-data/hostname") == (200, b"alice")


async def test_a_network_that_went_is_no_longer_heard(place: Place) -> None:
    held = "kumo_guest_networks 2"
    assert held in place.responder.scrape()
    port = next(uid for uid in place.rig.ports.held if names.tap(uid) == place.dan.tap)
    network = place.rig.ports.held[port].desired.network_uid
    await place.rig.drop_port(port)
    await place.rig.until(port, PortFacts.ABSENT)
    assert lease(place.dan, wait_s=0.3) is None
    await place.rig.drop_network(network)
    await place.rig.wait(lambda: "kumo_guest_networks 1" in place.responder.scrape())
    assert address_of(place.alice) == A


async def test_it_has_no_rights_and_reads_no_other_files(place: Place) -> None:
    status = place.responder.status()
    assert status["Uid"].split() == status["Gid"].split() == ["64104"] * 4
    assert {status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1" and status["Groups"].strip() == ""
    secret = next((place.lab.directory / "state").rglob("*.state"))
    servers = place.lab.directory / "guest" / "servers"
    assert may("cat", next(servers.iterdir())) and not may("cat", secret)
    # It changes nothing that it answers from, only its marks.
    assert not may("touch", servers / "x") and not may("touch", servers.parent / "x")
    assert may("touch", place.rig.guests.ready / "x")


async def test_hostile_guests_are_bounded_and_do_not_hurt_others(place: Place) -> None:
    place.alice.configure()
    place.bob.configure()
    with contextlib.ExitStack() as stack:
        for _ in range(20):  # connections that say nothing
            opened = stack.enter_context(place.bob.open(socket.AF_INET, socket.SOCK_STREAM))
            opened.settimeout(2)
            opened.connect((names.METADATA_ADDRESS, 80))
        assert place.alice.get("/latest/meta-data/hostname") == (200, b"alice")
        wait_for("the limit", lambda: 'refused_connections_total{limit="guest"}' in place.responder.scrape())
    wait_for("they go", lambda: place.bob.get("/latest/meta-data/hostname", timeout_s=0.5) == (200, b"bob"))
    assert place.bob.get("/" + "a" * 6000)[0] in (0, 413)
    with place.bob.open(socket.AF_INET, socket.SOCK_STREAM) as opened:
        opened.settimeout(2)
        opened.connect((names.METADATA_ADDRESS, 80))
        opened.sendall(b"\x00\xff" * 100 + b"\r\n\r\n")
        assert opened.recv(100).startswith(b"HTTP/1.1 400 ")
    for _ in range(5):
        place.bob.send(dhcp_frame(BOB, os.urandom(400)), 20)
    assert address_of(place.alice) == A


async def test_nobody_else_hears_or_answers_dhcp(place: Place) -> None:
    """A rogue server on the network is mute, and a request reaches no other guest."""
    with place.bob.raw() as heard:
        heard.settimeout(0.3)
        assert ask_dhcp(place.alice, dhcp_frame(ALICE, dhcp_message(ALICE, 1))) is not None
        with pytest.raises(TimeoutError):
            while heard.recv(2000)[23:24] != b"\x11":
                pass
    assert address_of(place.bob) == B


async def test_only_port_80_of_the_metadata_address_answers(place: Place) -> None:
    place.alice.configure()
    assert place.alice.ping(names.METADATA_ADDRESS) == 0
    with place.alice.open(socket.AF_INET, socket.SOCK_STREAM) as opened:
        opened.settimeout(0.3)
        with pytest.raises(TimeoutError):
            opened.connect((names.METADATA_ADDRESS, 22))
    assert place.alice.get("/")[0] == 200
    inside = shell(str(place.lab.namespaces / "md-41"), "ip", "-4", "-br", "addr")
    assert inside.count("169.254.169.254/32") == 1


async def test_its_metrics_are_well_formed(place: Place) -> None:
    lease(place.alice)
    place.alice.configure()
    place.alice.get("/latest/")
    families = {family.name: family for family in text_string_to_metric_families(place.responder.scrape())}
    assert families["kumo_guest_dhcp_requests"].type == "counter"
    assert families["kumo_loop_lag_seconds"].type == "histogram"
    assert any(sample.labels == {"code": "200"} for sample in families["kumo_guest_http_requests"].samples)


def test_metric_names_follow_the_rules() -> None:
    metrics = Metrics()
    metrics.observe_lag(0.002)
    for family in text_string_to_metric_families(metrics.text()):
        assert re.fullmatch(r"kumo_[a-z0-9_]+", family.name) and family.documentation


def test_a_configuration_with_anything_wrong_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    good = 'directory = "/d"\nplane = "/p"\nsocket = "/s"\nmetrics = "127.0.0.1:1"\nuid = 64104\n'
    path.write_text(good)
    assert read_config(path).uid == 64104
    for bad, word in ((good + "more = 1\n", "more"), (good.replace("64104", "0"), "uid"), (good.replace("uid = 64104\n", ""), "uid")):
        path.write_text(bad)
        with pytest.raises(ValueError, match=word):
            read_config(path)
