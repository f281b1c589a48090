"""Decides about addresses: which a subnet has to give, which to try next, and whether two ranges overlap. Takes nothing itself.

A subnet keeps for itself its first and last address, the gateway, and the address from which guests are served.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv4Network

from kumo.errors import InvalidArgument

PREFIX_LENGTHS = range(8, 30)
# A MAC that is administered locally and not a multicast one, and then two bytes that say Kumo.
_MAC_START = bytes((0x02, 0x6B))


@dataclass(frozen=True)
class Range:
    """The addresses of one subnet."""

    network: IPv4Network
    gateway: IPv4Address

    @cached_property
    def reserved(self) -> frozenset[IPv4Address]:
        return frozenset({self.network.network_address, self.network.broadcast_address, self.gateway})

    @cached_property
    def count(self) -> int:
        """How many addresses ports can have."""
        return self.network.num_addresses - len(self.reserved)

    def offers(self, address: IPv4Address) -> bool:
        return address in self.network and address not in self.reserved


@lru_cache(maxsize=4096)  # each port of a network asks for the same few
def parse_range(cidr: str, gateway: str) -> Range:
    """Raises InvalidArgument, naming the field, if these cannot be the range and the gateway of a subnet."""
    network = IPv4Network(cidr, strict=False)
    if str(network) != cidr:
        raise InvalidArgument(
            "CIDR_HAS_HOST_BITS",
            f"{cidr} is an address within a range",
            field="subnet.spec.cidr",
            fix=f"write the range: {network}",
            value=cidr,
        )
    if network.prefixlen not in PREFIX_LENGTHS:
        first, last = PREFIX_LENGTHS[0], PREFIX_LENGTHS[-1]
        raise InvalidArgument(
            "CIDR_SIZE",
            f"{cidr} has a prefix of {network.prefixlen} bits",
            field="subnet.spec.cidr",
            fix=f"use /{first} to /{last}",
            value=cidr,
        )
    if network.is_multicast or network.is_loopback or network.is_link_local or network.network_address == IPv4Address("0.0.0.0"):
        raise InvalidArgument(
            "CIDR_NOT_UNICAST",
            f"{cidr} holds addresses that no guest can have",
            field="subnet.spec.cidr",
            fix="use a private range, such as 10.0.0.0/24",
            value=cidr,
        )
    if not gateway:
        return Range(network, network.network_address + 1)
    address = IPv4Address(gateway)
    if address not in network or address in (network.network_address, network.broadcast_address):
        fix = f"use an address between {network.network_address + 1} and {network.broadcast_address - 1}, or leave it out"
        raise InvalidArgument(
            "GATEWAY_OUTSIDE", f"{gateway} is not a host's address in {cidr}", field="subnet.spec.gateway", fix=fix, value=gateway
        )
    return Range(network, address)


def candidates(addresses: Range, seed: bytes) -> Iterator[IPv4Address]:
    """Yield every address that the range offers, each once, in an order that depends on `seed` alone.

    Callers that start from different seeds rarely meet, so that two who take at the same time rarely have to try again.
    """
    size = addresses.network.num_addresses
    start, stride = _start_and_stride(seed, size)
    for step in range(size):
        address = addresses.network.network_address + (start + step * stride) % size
        if address not in addresses.reserved:
            yield address


def _start_and_stride(seed: bytes, size: int) -> tuple[int, int]:
    """An odd stride has no divisor in common with a power of two, so that it meets every number before it comes back."""
    digest = hashlib.blake2b(seed, digest_size=16).digest()
    return int.from_bytes(digest[:8]) % size, (int.from_bytes(digest[8:]) % size) | 1


def mac_of(seed: bytes) -> str:
    """Return a MAC of Kumo's range that depends on `seed` alone."""
    return ":".join(f"{byte:02x}" for byte in _MAC_START + hashlib.blake2b(seed, digest_size=4).digest())


def vni_candidates(seed: bytes) -> Iterator[int]:
    """Yield every VXLAN number from 4096 on (lower ones read like VLANs in other tools), each once, in the seed's order."""
    size = 1 << 24
    start, stride = _start_and_stride(seed, size)
    for step in range(size):
        vni = (start + step * stride) % size
        if vni >= 4096:
            yield vni


def overlapping(cidr: str, others: dict[str, str]) -> str | None:
    """Return the name of the first of `others` (name to range) that shares an address with `cidr`, or None."""
    mine = IPv4Network(cidr)
    return next((name for name, other in sorted(others.items()) if mine.overlaps(IPv4Network(other))), None)
