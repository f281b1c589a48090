"""Addresses and MACs under races: none is given twice, all that a subnet has are given, and a full one says so with numbers."""

import asyncio
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from kumo.api.network.v1 import network_pb2, port_pb2
from kumo.errors import Error, FailedPrecondition, InvalidArgument, ResourceExhausted
from tests.controller.region.region_process import PROJECT, Rig, eventually, subnet_request


def request(name: str, **fields: Any) -> port_pb2.CreatePortRequest:
    spec = port_pb2.Port.Spec(network=fields.pop("network", f"{PROJECT}/networks/tight"), **fields)
    return port_pb2.CreatePortRequest(parent=PROJECT, port_id=name, port=port_pb2.Port(spec=spec))


async def tight(rig: Rig, *cidrs: str) -> None:
    network = network_pb2.Network(spec=network_pb2.Network.Spec())
    await rig.api.networks.CreateNetwork(network_pb2.CreateNetworkRequest(parent=PROJECT, network_id="tight", network=network))
    for number, cidr in enumerate(cidrs):
        await rig.api.subnets.CreateSubnet(subnet_request(f"t{number}", cidr, "tight"))


async def test_a_race_for_a_tight_subnet_gives_each_address_once_and_then_says_that_it_is_full(rig: Rig) -> None:
    await tight(rig, "10.9.0.0/28")
    results = await asyncio.gather(*(rig.api.ports.CreatePort(request(f"p{n}")) for n in range(20)), return_exceptions=True)
    ports = [result for result in results if isinstance(result, port_pb2.Port)]
    free = set(IPv4Network("10.9.0.0/28").hosts()) - {IPv4Address("10.9.0.1")}
    assert {IPv4Address(port.spec.address) for port in ports} == free
    assert len(ports) == len(free) == 13
    assert len({port.spec.mac for port in ports}) == 13
    assert all(port.spec.prefix_length == 28 for port in ports)
    full = [result for result in results if isinstance(result, ResourceExhausted)]
    assert len(full) == 7
    assert full[0].reason == "NO_FREE_ADDRESS"
    assert "13 of" in full[0].message
    await rig.api.ports.DeletePort(port_pb2.DeletePortRequest(name=ports[0].name))
    await eventually(lambda: can_create(rig, "again"))
    again = await rig.api.ports.GetPort(port_pb2.GetPortRequest(name=f"{PROJECT}/ports/again"))
    assert again.spec.address == ports[0].spec.address


async def can_create(rig: Rig, name: str) -> bool:
    try:
        await rig.api.ports.CreatePort(request(name))
    except Error:
        return False
    return True


async def test_of_many_who_ask_for_one_address_one_gets_it(rig: Rig) -> None:
    await tight(rig, "10.9.0.0/24")
    calls = (rig.api.ports.CreatePort(request(f"p{n}", address="10.9.0.50")) for n in range(5))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, port_pb2.Port) for result in results) == 1
    refused = [result for result in results if isinstance(result, FailedPrecondition)]
    assert len(refused) == 4
    assert {(error.reason, error.field) for error in refused} == {("ADDRESS_TAKEN", "port.spec.address")}


async def test_a_second_subnet_is_used_when_the_first_is_full(rig: Rig) -> None:
    await tight(rig, "10.9.0.0/29", "10.9.1.0/29")
    ports = [await rig.api.ports.CreatePort(request(f"p{n}")) for n in range(10)]
    assert [port.spec.subnet.split("/")[-1] for port in ports] == ["t0"] * 5 + ["t1"] * 5


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"address": "10.8.0.1"}, "ADDRESS_OUTSIDE", "port.spec.address"),
        ({"address": "10.9.0.1"}, "ADDRESS_OUTSIDE", "port.spec.address"),
        ({"address": "10.9.0.255"}, "ADDRESS_OUTSIDE", "port.spec.address"),
        ({"subnet": f"{PROJECT}/subnets/sub"}, "SUBNET_ELSEWHERE", "port.spec.subnet"),
        ({"subnet": f"{PROJECT}/subnets/none"}, "SUBNET_NOT_FOUND", "port.spec.subnet"),
        ({"network": f"{PROJECT}/networks/none"}, "NETWORK_NOT_FOUND", "port.spec.network"),
    ],
)
async def test_an_address_that_cannot_be_had_is_refused_by_field(rig: Rig, fields: dict[str, Any], reason: str, field: str) -> None:
    await tight(rig, "10.9.0.0/24")
    with pytest.raises(Error) as refused:
        await rig.api.ports.CreatePort(request("p", **fields))
    assert (refused.value.reason, refused.value.field) == (reason, field)
    assert refused.value.fix


async def test_a_network_without_a_subnet_gives_no_address(rig: Rig) -> None:
    await tight(rig)
    with pytest.raises(FailedPrecondition) as refused:
        await rig.api.ports.CreatePort(request("p"))
    assert refused.value.reason == "NO_SUBNET"
    with pytest.raises(InvalidArgument):
        await rig.api.ports.CreatePort(request("p", address="not an address"))
