"""The network state of a namespace as plain text that can be compared: no indexes, handles, counters or random addresses."""

import json
import re

from agent.network import names
from tests.agent.network.lab import shell

OURS = (names.BRIDGE, names.TUNNEL, names.METADATA)
_KIND = ("id", "local", "port", "learning", "mcast_snooping", "nf_call_iptables")
_FLAGS = ("learning", "flood", "neigh_suppress", "bcast_flood", "mcast_flood", "isolated")


def links(namespace: str) -> list[str]:
    found = []
    for link in json.loads(shell(namespace, "ip", "-d", "-j", "link")):
        if link["ifname"] == "lo":
            continue
        info = link.get("linkinfo", {})
        kind = {key: info.get("info_data", {}).get(key) for key in _KIND}
        port = {key: info.get("info_slave_data", {}).get(key) for key in _FLAGS}
        mac = link["address"] if link["ifname"].startswith(names.BRIDGE) or link["ifname"] == "m0" else ""
        up = "UP" in link["flags"]
        found.append(f"{link['ifname']} {mac} mtu {link['mtu']} on {link.get('master')} {info.get('info_kind')} up {up} {kind} {port}")
    return sorted(found)


def entries(namespace: str) -> list[str]:
    fdb = shell(namespace, "bridge", "fdb").splitlines()
    kept = [re.sub(r"link-netnsid \d+ ", "", line) for line in fdb if " static" in line or " dst " in line]
    return sorted(kept + shell(namespace, "ip", "neigh", "show", "nud", "permanent").splitlines())


def rules(namespace: str) -> list[str]:
    """Tables with their parts sorted: elements come in the order of a hash, and the nonce is random."""
    listed = shell(namespace, "nft", "-s", "list", "ruleset")
    listed = re.sub(r"elements = \{ 0x[0-9a-f]+ \}", "nonce", listed)
    listed = re.sub(r"elements = \{([^}]*)\}", lambda found: " ".join(sorted(" ".join(found[1].split()).split(", "))), listed)
    return sorted(listed.splitlines())


def state(plane: str, *metadata: str) -> dict[str, list[str]]:
    """Return all of a data plane, and of the metadata namespaces at these paths."""
    found = {"links": links(plane), "entries": entries(plane), "rules": rules(plane)}
    for path in metadata:
        name = path.rpartition("/")[2]
        inside = shell(path, "ip", "-4", "addr", "show", "dev", "m0").splitlines()[1:] + shell(path, "ip", "route").splitlines()
        found[name] = links(path) + entries(path) + sorted(line.strip() for line in inside)
    return found
