"""The packet rules of a host as text, and what a port or a tunnel adds to them: elements of sets, never rules. Touches nothing.

Three stages, of which none lets pass what another was to judge, so that with br_netfilter switched off, or with one table flushed
by somebody, nothing passes rather than everything:

  bridge prerouting   the tap proves who sent it; mark JUDGE_SENDER
  inet prerouting     may this port send this?  mark SENT
  bridge forward      a guest's frame without SENT is dropped; mark JUDGE_RECEIVER, or TO_FABRIC for a tunnel or metadata
  inet forward        may this port receive this?  mark RECEIVED
  bridge postrouting  a frame for a guest without RECEIVED is dropped

Security groups belong into the chains `egress` and `ingress` of the inet table, and nowhere else. Until they come each port accepts
what its own network sends, which needs no state: nothing is tracked, so that no guest can fill a table that others depend on.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.network import names

# Chains of the bridge family never have priority 0: br_netfilter enters the hooks again above it and may skip them.
_SKELETON = """
table arp kumo {
	chain host_in { type filter hook input priority 0; policy drop; }
}
table bridge kumo {
	set guarded { type ifname; }
	set macs { type ifname . ether_addr; }
	set src4 { type ifname . ether_addr . ipv4_addr; }
	set nonce { type mark; }
	chain pre { type filter hook prerouting priority -300; policy drop; }
	chain xmit { type filter hook forward priority -250; policy drop; }
	chain last { type filter hook postrouting priority -200; policy drop; }
}
table inet kumo {
	chain host_in { type filter hook input priority -300; policy drop; }
	chain host_out { type filter hook output priority -300; policy drop; }
	chain from_port { type filter hook prerouting priority 0; policy drop; }
	chain to_port { type filter hook forward priority 0; policy drop; }
}
"""

_RULES = """
table bridge kumo {
	chain arp_from_guest {
		iifname . arp saddr ether . arp saddr ip @src4 meta mark set JUDGE_SENDER accept
		arp saddr ip 0.0.0.0 arp operation request iifname . arp saddr ether @macs meta mark set JUDGE_SENDER accept
		counter drop
	}
	chain ip_from_guest {
		udp sport 68 udp dport 67 ether daddr set ff:ff:ff:ff:ff:ff meta mark set JUDGE_SENDER accept
		iifname . ether saddr . ip saddr @src4 meta mark set JUDGE_SENDER accept
		counter drop
	}
	chain from_guest {
		iifname . ether saddr != @macs counter drop
		ether type arp goto arp_from_guest
		ether type ip goto ip_from_guest
		counter drop
	}
	chain from_metadata {
		ether saddr != METADATA_MAC counter drop
		ether type arp arp saddr ip METADATA_ADDRESS meta mark set FROM_FABRIC accept
		ip saddr METADATA_ADDRESS tcp sport METADATA_PORT meta mark set FROM_FABRIC accept
		counter drop
	}
	chain pre {
		meta mark set 0
		iifname @guarded goto from_guest
		iifname "kv*" ether type { arp, ip } meta mark set FROM_FABRIC accept
		iifname "km*" goto from_metadata
		counter drop
	}
	chain to_metadata {
		iifname != @guarded drop
		ether type arp arp daddr ip METADATA_ADDRESS accept
		meta mark SENT ip daddr METADATA_ADDRESS tcp dport METADATA_PORT meta mark set TO_FABRIC accept
		drop
	}
	chain xmit {
		udp dport { 67, 547 } drop
		udp sport { 67, 547 } counter drop
		iifname "km*" oifname != @guarded drop
		oifname "km*" goto to_metadata
		ether type arp accept
		iifname @guarded meta mark != SENT counter drop
		iifname != @guarded meta mark != FROM_FABRIC counter drop
		oifname @guarded meta mark set JUDGE_RECEIVER accept
		oifname "kv*" meta mark set TO_FABRIC accept
		counter drop
	}
	chain last {
		oifname @guarded ether type arp accept
		oifname @guarded meta mark RECEIVED accept
		oifname { "kv*", "km*" } ether type arp accept
		oifname { "kv*", "km*" } meta mark TO_FABRIC accept
		counter drop
	}
}
table inet kumo {
	chain sent { meta mark set SENT accept; }
	chain received { meta mark set RECEIVED accept; }
	chain egress { goto sent; }
	chain ingress { goto received; }
	chain from_port {
		meta mark JUDGE_SENDER goto egress
		meta mark FROM_FABRIC accept
		counter drop
	}
	chain to_port {
		meta mark JUDGE_RECEIVER goto ingress
		meta mark TO_FABRIC accept
		counter drop
	}
}
"""

_WORDS = {
    "SENT": "0x1",
    "RECEIVED": "0x2",
    "TO_FABRIC": "0x3",
    "FROM_FABRIC": "0x4",
    "JUDGE_SENDER": "0x10",
    "JUDGE_RECEIVER": "0x11",
    "METADATA_MAC": names.METADATA_MAC,
    "METADATA_ADDRESS": names.METADATA_ADDRESS,
    "METADATA_PORT": str(names.METADATA_PORT),
}

Element = tuple[str, str]


@dataclass(frozen=True)
class Table:
    """One set of rules that is committed as a whole: what is constant, and which sets hold what changes."""

    tables: tuple[str, ...]
    home: str
    sets: tuple[str, ...]
    skeleton: str
    rules: str = field(repr=False)
    # Others have tables beside it in its namespace and change them as they like; what they change is not what is in force here.
    shared: bool = False

    def refill(self, elements: Iterable[Element], nonce: int) -> str:
        """Return the transaction that makes all as it shall be, in place: deleting a table would lose packets."""
        lines = [self.skeleton, *(f"flush table {table}" for table in self.tables)]
        lines += [f"flush set {self.home} {name}" for name in (*self.sets, "nonce")]
        lines += [self.rules, self.delta(elements, ()), f"add element {self.home} nonce {{ {nonce:#x} }}"]
        return "\n".join(lines)

    def delta(self, added: Iterable[Element], removed: Iterable[Element]) -> str:
        """Return the transaction that adds and removes elements; removing what is not there would fail it."""
        return "\n".join([*self._lines("delete", removed), *self._lines("add", added)])

    def _lines(self, verb: str, elements: Iterable[Element]) -> list[str]:
        by_set: dict[str, list[str]] = {}
        for name, key in sorted(elements):
            by_set.setdefault(name, []).append(key)
        return [f"{verb} element {self.home} {name} {{ {', '.join(keys)} }}" for name, keys in by_set.items()]


def _spell(text: str) -> str:
    for word, value in sorted(_WORDS.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(word, value)
    return text


def data_plane() -> Table:
    """The rules of the namespace in which tenants' links live."""
    tables = ("arp kumo", "bridge kumo", "inet kumo")
    return Table(tables, "bridge kumo", ("guarded", "macs", "src4"), _SKELETON, _spell(_RULES))


def tunnel_table(port: int) -> str:
    """Return the name of the host's table for one tunnel port; two labs of one machine have two."""
    return f"kumo_{port}"


def host(port: int, address: str) -> Table:
    """The rules of the host: tunnels carry no proof of who sent them, so only addresses of other hosts may.

    And only to the tunnel address: not every kernel binds a tunnel to its address, and then those of other planes would take frames too.
    """
    table = f"inet {tunnel_table(port)}"
    skeleton = f"""
table {table} {{
	set far4 {{ type ipv4_addr; }}
	set far6 {{ type ipv6_addr; }}
	set nonce {{ type mark; }}
	chain tunnels {{ type filter hook input priority -300; policy accept; }}
}}
"""
    rules = f"""
table {table} {{
	chain tunnels {{
		udp dport {port} {"ip6" if ":" in address else "ip"} daddr != {address} counter drop
		udp dport {port} ip saddr @far4 accept
		udp dport {port} ip6 saddr @far6 accept
		udp dport {port} counter drop
	}}
}}
"""
    return Table((table,), table, ("far4", "far6"), skeleton, rules, shared=True)


def port_elements(tap: str, mac: str, address: str) -> frozenset[Element]:
    """Return what a port adds to the data plane's rules. Every key begins with the tap."""
    return frozenset({("guarded", f'"{tap}"'), ("macs", f'"{tap}" . {mac}'), ("src4", f'"{tap}" . {mac} . {address}')})


def tap_of(element: Element) -> str:
    return element[1].split('"')[1]


def tunnel_elements(addresses: Iterable[str]) -> frozenset[Element]:
    """Return what lets frames of these tunnel endpoints in, spelled as the kernel lists them."""
    parsed = (ipaddress.ip_address(address) for address in addresses)
    return frozenset((f"far{address.version}", str(address)) for address in parsed)
