"""Names of links and namespaces. The prefix says whose a link is: nothing without one of Kumo's prefixes is ever touched.

A name has 15 characters, so a port's whole uid is hashed: the first characters of two uids made in one moment are the same.
"""

import hashlib

BRIDGE = "kb"
TUNNEL = "kv"
METADATA = "km"
TAP = "kt"

_TAP_CHARACTERS = 11


def tap(port_uid: str) -> str:
    """Return the name of a port's tap. Two ports of one host with the same name must be refused."""
    return TAP + hashlib.sha256(port_uid.encode()).hexdigest()[:_TAP_CHARACTERS]


def bridge(vni: int) -> str:
    return f"{BRIDGE}{vni:x}"


def tunnel(vni: int) -> str:
    return f"{TUNNEL}{vni:x}"


def metadata_leg(vni: int) -> str:
    """Return the name of the bridge's end of the pair that leads to the network's metadata namespace."""
    return f"{METADATA}{vni:x}"


def metadata_namespace(vni: int) -> str:
    return f"md-{vni:x}"


def vni_of(name: str) -> int | None:
    """Return the network number in the name of a bridge, tunnel or metadata leg; None if it is no such name."""
    if name[:2] not in (BRIDGE, TUNNEL, METADATA):
        return None
    digits = name.removeprefix(name[:2])
    try:
        vni = int(digits, 16)
    except ValueError:
        return None
    return vni if 0 < vni < 1 << 24 and digits == f"{vni:x}" else None


def bridge_mac(vni: int) -> str:
    """Return the address that a bridge is pinned to: unpinned it changes with its ports, and loses its permanent neighbours."""
    return "02:4b:00:" + ":".join(f"{byte:02x}" for byte in vni.to_bytes(3, "big"))


# The metadata service has one address in every network of every host, so that a guest may be moved.
METADATA_MAC = "02:4b:01:00:00:01"
METADATA_ADDRESS = "169.254.169.254"
METADATA_PORT = 80
