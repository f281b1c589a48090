"""DHCP as a function: right answers to clients, silence for all else, and nothing that a guest sends makes it raise."""

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from agent.guest import dhcp
from agent.guest.dhcp import Kind
from agent.guest.files import PortAnswer
from tests.agent.network.lab import Lease, dhcp_frame, dhcp_message, read_dhcp

MAC = "02:aa:00:00:00:11"
PORT = PortAnswer("p", "kb41", "kt1", MAC, "10.0.0.11", 24, "10.0.0.1", ("192.0.2.53",), "guest", 1450, "s")
SERVER = bytes([54, 4]) + socket.inet_aton("169.254.169.254")


def asked(address: str) -> bytes:
    return bytes([50, 4]) + socket.inet_aton(address)


def say(kind: int, options: bytes = b"", client: str = "0.0.0.0", port: PortAnswer = PORT) -> Lease | None:
    said = dhcp.answer(dhcp_frame(MAC, dhcp_message(MAC, kind, options, client)), port)
    return None if said is None else read_dhcp(said[1])


def test_a_client_is_offered_and_given_its_address() -> None:
    offer = say(Kind.DISCOVER)
    assert offer is not None and (offer.kind, offer.address) == (Kind.OFFER, "10.0.0.11")
    given_ = say(Kind.REQUEST, asked("10.0.0.11") + SERVER)
    assert given_ is not None and (given_.kind, given_.address) == (Kind.ACK, "10.0.0.11")
    assert given_.options[1] == socket.inet_aton("255.255.255.0")
    assert given_.options[3] == socket.inet_aton("10.0.0.1")
    assert given_.options[6] == socket.inet_aton("192.0.2.53")
    assert given_.options[12] == b"guest"
    assert struct.unpack(">H", given_.options[26]) == (1450,)
    lease_s, renew_s, rebind_s = (struct.unpack(">I", given_.options[code])[0] for code in (51, 58, 59))
    assert renew_s < rebind_s < lease_s


def test_the_metadata_service_is_on_the_link_and_the_default_route_is_repeated() -> None:
    on_link = b"\x20" + socket.inet_aton("169.254.169.254") + bytes(4)
    offer = say(Kind.DISCOVER)
    assert offer is not None and offer.options[121] == on_link + b"\x00" + socket.inet_aton("10.0.0.1")
    alone = say(Kind.DISCOVER, port=PortAnswer("p", "kb41", "kt1", MAC, "10.0.0.11", 24, "", (), "", 1450, "s"))
    assert alone is not None and alone.options[121] == on_link
    assert not alone.options.keys() & {3, 6, 12}


def test_a_lease_is_renewed_by_unicast_and_by_broadcast() -> None:
    renewed = say(Kind.REQUEST, client="10.0.0.11")
    assert renewed is not None and (renewed.kind, renewed.address) == (Kind.ACK, "10.0.0.11")


def test_another_address_is_refused() -> None:
    for options, client in ((asked("10.0.0.12"), "0.0.0.0"), (b"", "10.0.0.12")):
        refused = say(Kind.REQUEST, options, client)
        assert refused is not None and (refused.kind, refused.address) == (Kind.NAK, "0.0.0.0")
        assert 51 not in refused.options


def test_who_only_informs_gets_options_and_no_lease() -> None:
    told = say(Kind.INFORM, client="10.0.0.11")
    assert told is not None and (told.kind, told.address) == (Kind.ACK, "0.0.0.0")
    assert 26 in told.options and 51 not in told.options


def test_what_is_for_another_server_or_needs_no_answer_is_met_with_silence() -> None:
    assert say(Kind.REQUEST, asked("10.0.0.11") + bytes([54, 4, 10, 0, 0, 1])) is None
    assert say(Kind.DECLINE) is None and say(Kind.RELEASE) is None


def test_a_relay_or_a_false_hardware_address_is_not_answered() -> None:
    relayed = bytearray(dhcp_message(MAC, Kind.DISCOVER))
    relayed[24:28] = socket.inet_aton("10.0.0.1")
    assert dhcp.answer(dhcp_frame(MAC, bytes(relayed)), PORT) is None
    assert dhcp.answer(dhcp_frame(MAC, dhcp_message("02:aa:00:00:00:12", Kind.DISCOVER)), PORT) is None
    assert dhcp.answer(dhcp_frame("02:aa:00:00:00:12", dhcp_message("02:aa:00:00:00:12", Kind.DISCOVER)), PORT) is None
    assert dhcp.answer(dhcp_frame(MAC, dhcp_message(MAC, Kind.DISCOVER)), PORT) is not None


@given(frame=st.binary(max_size=700))
def test_no_bytes_make_it_raise(frame: bytes) -> None:
    dhcp.answer(frame, PORT)


@given(options=st.binary(max_size=300), cut=st.integers(0, 700))
def test_no_options_and_no_truncation_make_it_raise(options: bytes, cut: int) -> None:
    frame = dhcp_frame(MAC, dhcp_message(MAC, Kind.REQUEST, options))
    dhcp.answer(frame, PORT)
    dhcp.answer(frame[:cut], PORT)


@given(at=st.integers(0, 330), value=st.integers(0, 255))
def test_no_changed_byte_makes_it_give_another_address(at: int, value: int) -> None:
    frame = bytearray(dhcp_frame(MAC, dhcp_message(MAC, Kind.REQUEST, asked("10.0.0.11"))))
    frame[at % len(frame)] = value
    said = dhcp.answer(bytes(frame), PORT)
    if said is not None:
        lease = read_dhcp(said[1])
        assert lease is not None and lease.address in ("10.0.0.11", "0.0.0.0")
