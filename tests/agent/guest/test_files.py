"""What the agent writes is what the responder finds, by who asks."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.guest.files import GuestFiles, NetworkPlace, Nic, PortAnswer, ServerMetadata

FIRST = PortAnswer("p1", "kb41", "kt1", "02:aa:00:00:00:11", "10.0.0.11", 24, "", ("192.0.2.53",), "one", 1450, "s1")
SAME_ELSEWHERE = replace(FIRST, uid="p2", bridge="kb42", tap="kt2", server_uid="s2")


@pytest.fixture
def files(tmp_path: Path) -> GuestFiles:
    made = GuestFiles(tmp_path / "guest")
    made.prepare()
    return made


def test_who_asks_is_found_by_network_and_mac_or_address(files: GuestFiles) -> None:
    files.write_port(FIRST)
    files.write_port(SAME_ELSEWHERE)
    assert files.asking("kb41", FIRST.mac) == files.asking("kb41", FIRST.address) == FIRST
    assert files.asking("kb42", FIRST.mac) == files.asking("kb42", FIRST.address) == SAME_ELSEWHERE
    assert files.asking("kb43", FIRST.mac) is None
    assert files.asking("kb41", "10.0.0.99") is None
    assert files.port_is(FIRST) and files.port_uids() == {"p1", "p2"}


def test_an_address_that_went_to_another_port_is_not_taken_back(files: GuestFiles) -> None:
    files.write_port(FIRST)
    heir = replace(FIRST, uid="p3", mac="02:aa:00:00:00:33", server_uid="s3")
    files.write_port(heir)
    assert not files.port_is(FIRST)
    files.remove_port("p1")
    assert files.asking("kb41", FIRST.address) == heir
    assert files.asking("kb41", FIRST.mac) is None
    files.remove_port("p3")
    assert files.asking("kb41", FIRST.address) is None and files.port_uids() == set()


def test_a_damaged_file_is_none(files: GuestFiles, tmp_path: Path) -> None:
    files.write_port(FIRST)
    path = tmp_path / "guest" / "ports" / "p1.json"
    for content in ("", "{", "[]", '{"format": 99}', "null"):
        path.write_text(content)
        assert files.port("p1") is None and files.asking("kb41", FIRST.mac) is None


def test_networks_are_listed(files: GuestFiles) -> None:
    place = NetworkPlace("kb41", 0x41, "/run/kumo/netns/md-41")
    files.write_network("n", place)
    assert files.networks() == {"n": place}
    files.remove_network("n")
    assert files.networks() == {}


@given(
    server=st.builds(
        ServerMetadata,
        name=st.text(max_size=20),
        hostname=st.text(max_size=20),
        labels=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
        ssh_keys=st.lists(st.text(max_size=20), max_size=3).map(tuple),
        user_data=st.binary(max_size=100),
        nics=st.lists(st.builds(Nic, st.text(max_size=5), st.text(max_size=5), st.integers(68, 9000)), max_size=2).map(tuple),
    )
)
def test_a_servers_metadata_comes_back_as_it_was(server: ServerMetadata, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = GuestFiles(tmp_path_factory.mktemp("guest"))
    files.prepare()
    files.write_server("s1", server)
    assert files.server("s1") == server
    (files.ready / "s1").touch()
    files.remove_server("s1")
    assert files.server("s1") is None and not (files.ready / "s1").exists()
