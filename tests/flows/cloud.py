"""A lab as the flow tests see it: the `kumo` command for what a user does, and a picture of the whole world behind it.

The picture holds everything that a server leaves anywhere: records, disks, domains, links, rules, files. Taken before a create and
after the delete it must be the same; that is how "nothing is left" is told.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import libvirt
import rbd

from cli.failure import Exit
from deploy import ceph
from deploy.layout import Lab, Port
from deploy.trial import Trial
from kumo.store.etcd.rpc_pb2 import RangeRequest, RangeResponse

PLANE = "/run/kumo/netns/dp"
# What is meant to stay after a thing has gone: history, answers to repeated requests, tombstones, and the planes' own bookkeeping.
_KEPT = re.compile(
    r"/(event|request|end|tombstone|ended|sweep)[^/]*/|/(lead|cursor|sequence|stale|largest|incarnation|format|token-key)|/tick$|/event/|/Event/"
)
# Counters count, and a boot's rules bear a number of their own.
_CHANGING = re.compile(r"counter packets \d+ bytes \d+|set nonce \{[^}]*\}\s*\}")
_RECORD = re.compile(r"^/kumo/([^/]+)/[^/]+/record/[^/]+/../([^/]+)/(\w+)$")
_POOLS = ("volumes", "images")

World = dict[str, frozenset[str]]


@dataclass(frozen=True)
class Cloud(Trial):
    """A running lab."""

    def plane(self, *command: str, check: bool = True) -> str:
        """Run a command in the data-plane namespace and return its output."""
        return self.inside("nsenter", f"--net={PLANE}", "--", *command, check=check)

    def store(self) -> dict[str, bytes]:
        """Return every key of both planes."""
        found = {}
        for plane in ("region", "cell"):
            with _etcd(self.lab, plane) as channel:
                call = channel.unary_unary("/etcdserverpb.KV/Range", RangeRequest.SerializeToString, RangeResponse.FromString)
                prefix = f"/kumo/{plane}/".encode()
                answer = call(RangeRequest(key=prefix, range_end=prefix[:-1] + bytes([prefix[-1] + 1])), timeout=10)
                found.update({pair.key.decode(): pair.value for pair in answer.kvs})
        return found

    def domains(self) -> dict[str, bool]:
        """Return the domains that libvirt knows: uuid → whether it runs."""
        connection = libvirt.open(self.lab.libvirt_uri)
        try:
            return {domain.UUIDString(): bool(domain.isActive()) for domain in connection.listAllDomains()}
        finally:
            connection.close()

    def disks(self) -> frozenset[str]:
        """Return every RBD image, whether in the trash or not, and every object that is not one's data."""
        found: set[str] = set()
        with ceph.admin(self.lab) as cluster:
            for pool in _POOLS:
                with cluster.open_ioctx(pool) as io:
                    found |= {f"{pool}/{name}" for name in rbd.RBD().list(io)}
                    found |= {f"{pool}/trash/{entry['name']}" for entry in rbd.RBD().trash_list(io)}
                    found |= {f"{pool}/object/{item.key}" for item in io.list_objects() if not item.key.startswith(("rbd_", "journal"))}
        return frozenset(found)

    def world(self) -> World:
        """Return everything there is, by where it is."""
        store = self.store()
        keys = {
            f"{key}={value.decode(errors='replace')}" if "/usage/" in key else key for key, value in store.items() if not _KEPT.search(key)
        }
        # A counter that went back to nothing says the same as none.
        keys -= {key for key in keys if "/usage/" in key and re.search(r"=(0|)$", key)}
        return {
            "store": frozenset(keys),
            "domains": frozenset(self.domains()),
            "disks": self.disks(),
            "links": frozenset(re.findall(r"^\d+: ([^:@]+)", self.plane("ip", "-o", "link"), re.MULTILINE)),
            "neighbours": frozenset(line.split(" used ")[0] for line in self.plane("ip", "neigh").splitlines() if "PERMANENT" in line),
            "rules": frozenset(_CHANGING.sub("", self.plane("nft", "list", "ruleset")).splitlines()),
            "namespaces": frozenset(self.inside("ls", str(Path(PLANE).parent)).split()),
            "taps": frozenset(self.inside("sh", "-c", "ls /sys/class/net").split()),
            "agent files": _without_tombstones(_files(self.lab.agent)),
            "guest files": frozenset(_files(self.lab.guest)),
            "what QEMU said": frozenset(_files(self.lab.libvirt / "log" / "qemu")),
        }

    def state_of(self, noun: str, name: str) -> str:
        """Return the state of a resource; GONE where there is none, AWAY while the controller does not answer."""
        shown = self.kumo(noun, "show", name, "-o", "json", check=False)
        if shown.returncode in (Exit.NOT_FOUND, Exit.UNAVAILABLE):
            return "GONE" if shown.returncode == Exit.NOT_FOUND else "AWAY"
        assert shown.returncode == 0, shown.stderr
        found = re.search(r'"state": "(\w+)"', shown.stdout)
        return found[1] if found else "UNKNOWN"


def _without_tombstones(names: set[str]) -> frozenset[str]:
    """Leave out what stays for an hour after its end was acknowledged: the last command about a thing, and the note of the end."""
    ended = {name.rsplit("/", 1)[-1] for name in names if "-ended/" in name}
    return frozenset(name for name in names if name.rsplit("/", 1)[-1] not in ended)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} if folder.exists() else set()


def _etcd(lab: Lab, plane: str) -> grpc.Channel:
    tls = lab.controller / "tls"
    files = [(tls / name).read_bytes() for name in ("etcd-ca.crt", f"etcd-{plane}.key", f"etcd-{plane}.crt")]
    options = [("grpc.max_receive_message_length", 256 << 20)]
    return grpc.secure_channel(lab.address(Port.ETCD_CLIENT), grpc.ssl_channel_credentials(*files), options)


def difference(before: World, after: World) -> str:
    """Return what one picture has and the other has not, a line each; empty when they are the same."""
    stays = {found[2] for key in before["store"] if (found := _RECORD.match(key)) and found[1] == "region" and found[3] == "intent"}
    lines = []
    for part, there in before.items():
        lines += [f"{part}: gone: {item}" for item in sorted(there - after[part])]
        lines += [f"{part}: left: {item}" for item in sorted(after[part] - there) if not _is_of(item, stays)]
    return "\n".join(lines)


def _is_of(key: str, uids: set[str]) -> bool:
    """Whether a key is a part of a record that was there before: a network that a cell has been told of since is no trace."""
    found = _RECORD.match(key)
    return found is not None and found[2] in uids


def until(check: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    """Wait until `check()` is true. Raises AssertionError that says what was waited for."""
    end = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < end, f"not within {limit_s:.0f} s: {what}"
        time.sleep(0.05)


def assert_nothing_left(cloud: Cloud, before: World, limit_s: float = 30.0) -> None:
    """Wait until the world is again as it was; what is taken away in the background may take a moment."""
    last = ""

    def same() -> bool:
        nonlocal last
        last = difference(before, cloud.world())
        return not last

    try:
        until(same, "the world as it was before", limit_s)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{last}") from None
