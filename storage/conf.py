"""Reads what Ceph's configuration says of monitors and keys, for programs (QEMU) that are told them one by one."""

from collections.abc import Sequence
from pathlib import Path

from kumo.errors import FailedPrecondition


def monitors_of(mon_host: str) -> tuple[tuple[str, int], ...]:
    """Return address and port of each monitor, by the older protocol's port where there is one, which every QEMU speaks.

    An IPv6 address comes without brackets, which QEMU puts on by itself. `mon_host` is as Ceph writes it:
    `[v2:10.0.0.1:3300,v1:10.0.0.1:6789],[v2:...]`, or plain addresses with or without a port.
    """
    found: list[tuple[str, int]] = []
    for group in _groups(mon_host):
        parts = [part.partition(":") for part in group if part.startswith(("v1:", "v2:"))]
        wanted = next((rest for kind, _, rest in parts if kind == "v1"), None) or next((rest for _, _, rest in parts), None) or group[0]
        host, colon, port = wanted.partition("/")[0].rpartition(":")
        if not colon or host.endswith(":") or (":" in host and not host.startswith("[")):
            host, port = wanted, "6789"
        found.append((host.strip("[]"), int(port)))
    return tuple(found)


def _groups(mon_host: str) -> Sequence[list[str]]:
    """Split at commas that are not inside the brackets of one monitor's list of addresses."""
    if not mon_host.startswith("[v"):
        return [[part.strip()] for part in mon_host.replace(";", ",").split(",") if part.strip()]
    return [part.strip("[] ").split(",") for part in mon_host.split("],")]


def key_of(keyring: Path, user: str) -> str:
    """Return the secret of `user` in a keyring file. Raises FailedPrecondition if it has none."""
    section = ""
    for line in keyring.read_text().splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line.strip("[]")
        name, found, value = line.partition("=")
        if found and name.strip() == "key" and section == user:
            return value.strip()
    raise FailedPrecondition("CEPH_KEY_MISSING", f"{keyring} holds no key of {user}", fix="have the key written again")
