"""The lab's one-node Ceph: one monitor, one manager, one OSD on a sparse file, cephx on, pools and keys. Runs no command line
tool of Ceph while it serves: monitor commands go through one connection, which is what makes a start take a second.

Keys are per role and host. `client.admin` stays in a file that only root reads and that no process of Kumo uses.
"""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rados

from deploy.control import Service, wait_for
from deploy.files import make_directory, write
from deploy.layout import Lab, Port, Role, User
from deploy.rights import service

OSD_BYTES = 40 << 30
OSD_MEMORY_BYTES = 939524096
POOLS = ("volumes", "images")
PG_COUNT = 8
CONNECT_S = 20
EAGAIN = -11

_DAEMONS = """[global]
fsid = {fsid}
mon host = {mons}
mon initial members = a
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
public addr = {address}
cluster addr = {address}
ms bind ipv4 = {ipv4}
ms bind ipv6 = {ipv6}
ms bind port min = {first}
ms bind port max = {last}
# a cluster of one must not wait for the intervals of a large one
paxos propose interval = 0.02
paxos min wait = 0.01
mon tick interval = 1
mgr tick period = 1
mgr stats period = 1
mgr initial modules =
# The manager's Python modules cost 270 MiB and seconds of start; it counts space without them.
mgr module path = {dir}/no-modules
# without this a restarted OSD waits until the monitor notices that its old self has gone
osd fast shutdown notify mon = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = bluestore
bluestore block create = true
bluestore block size = {osd_bytes}
osd memory target = {osd_memory}
# a small cluster is better short of history than of memory
osd max pg log entries = 200
osd min pg log entries = 100
osd pg log dups tracked = 100
mon osd full ratio = 0.90
mon allow pool delete = true
mon warn on pool no redundancy = false
auth allow insecure global id reclaim = false
mon data avail warn = 2
mon data avail crit = 1
run dir = {dir}/run
admin socket = {dir}/run/$name.asok
mon data = {dir}/mon
mgr data = {dir}/mgr
osd data = {dir}/osd
log file =
log to stderr = false
err to stderr = true
clog to stderr = false
mon cluster log file =
debug ms = 0/0
crash dir = {dir}/crash
"""
# A guest's disk waits for its cluster: a late I/O error is worse for a file system than a pause.
_GUESTS = """[global]
fsid = {fsid}
mon host = {mons}
auth client required = cephx
objecter_timeout = 1
objecter_tick_interval = 0.5
admin socket =
log file =
"""
# The control path must get an answer: a timeout means unknown, and is read back.
_CONTROL = (
    _GUESTS
    + """client_mount_timeout = 5
rados_mon_op_timeout = 10
rados_osd_op_timeout = 20
rbd_blocklist_on_break_lock = false
keyring = {keyring}
"""
)


def _run(*argv: str | Path) -> None:
    """Run one of Ceph's tools as Ceph's user. Raises RuntimeError with what it printed."""
    command = ["setpriv", f"--reuid={User.CEPH:d}", f"--regid={User.CEPH:d}", "--clear-groups", "--", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed: {done.stderr.strip() or done.stdout.strip()}")


def _monitors(lab: Lab) -> str:
    return f"[v2:{lab.address(Port.MON_V2)},v1:{lab.address(Port.MON_V1)}]"


def _settings(lab: Lab) -> dict[str, object]:
    is_ipv6 = ":" in lab.addresses.storage
    return {
        "address": lab.addresses.storage,
        "ipv4": str(not is_ipv6).lower(),
        "ipv6": str(is_ipv6).lower(),
        "fsid": (lab.ceph / "fsid").read_text(),
        "mons": _monitors(lab),
        "first": lab.port(Port.CEPH_FIRST),
        "last": lab.port(Port.CEPH_LAST),
        "osd_bytes": OSD_BYTES,
        "osd_memory": OSD_MEMORY_BYTES,
        "dir": lab.ceph,
    }


def prepare(lab: Lab) -> None:
    """Write configuration, keys and an empty monitor store. Does only what an earlier, interrupted run has not done."""
    ceph = lab.ceph
    make_directory(ceph)
    make_directory(ceph / "etc")
    make_directory(ceph / "no-modules")
    for name in ("mon", "mgr", "osd", "run", "crash"):
        make_directory(ceph / name, User.CEPH, 0o700)
    if not (ceph / "fsid").exists():
        write(ceph / "fsid", str(uuid.uuid4()))
    settings = _settings(lab)
    write(ceph / "ceph.conf", _DAEMONS.format(**settings))
    write(ceph / "etc" / "ceph.conf", _GUESTS.format(**settings))
    if (ceph / "mon" / "made").exists():
        return
    keys = ceph / "mon.keys"
    keys.unlink(missing_ok=True)
    make_directory(ceph / "keys", User.CEPH, 0o700)
    every = [part for service in ("mon", "osd", "mgr") for part in ("--cap", service, "allow *")]
    manager = ["--cap", "mon", "allow profile mgr", "--cap", "osd", "allow *"]
    ring = ceph / "keys" / "all"
    ring.unlink(missing_ok=True)
    _run("ceph-authtool", "--create-keyring", ring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    _run("ceph-authtool", ring, "--gen-key", "-n", "client.admin", *every)
    _run("ceph-authtool", ring, "--gen-key", "-n", "mgr.x", *manager)
    monmap = ceph / "keys" / "monmap"
    monmap.unlink(missing_ok=True)
    _run("monmaptool", "--create", "--addv", "a", _monitors(lab), "--fsid", str(settings["fsid"]), monmap)
    for left in (ceph / "mon").iterdir():
        subprocess.run(["rm", "-rf", left], check=True)
    conf = ceph / "ceph.conf"
    _run("ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", ring)
    write(ceph / "admin.keyring", _section(ring.read_text(), "client.admin"), mode=0o600)
    write(ceph / "mgr" / "keyring", _section(ring.read_text(), "mgr.x"), User.CEPH, 0o600)
    ring.unlink()
    write(ceph / "mon" / "made", "")


def _section(ring: str, name: str) -> str:
    """Return one entity of a keyring."""
    parts = ring.split("[")
    return "[" + next(part for part in parts if part.startswith(f"{name}]"))


def services(lab: Lab) -> list[Service]:
    """The OSD is among them once it has been made."""
    conf = ["-f", "-c", str(lab.ceph / "ceph.conf")]

    def one(name: str, argv: list[str], stop_signal: str = "SIGTERM", stop_timeout_s: float = 10.0) -> Service:
        return service(
            name,
            argv,
            nofile=65536,
            # A daemon's address holds a number that must differ from that of its former life, and in a PID namespace its pid does not:
            # without this the monitor takes a restarted OSD for the old one, and nobody talks to it.
            env={"CEPH_USE_RANDOM_NONCE": "1"},
            stop_signal=stop_signal,
            stop_timeout_s=stop_timeout_s,
        )

    # The manager keeps nothing, and its orderly end takes seconds.
    found = [
        one("ceph-mon", ["ceph-mon", "-i", "a", *conf]),
        one("ceph-mgr", ["ceph-mgr", "-i", "x", *conf, "--keyring", f"{lab.ceph}/mgr/keyring"], "SIGKILL"),
    ]
    if (lab.ceph / "osd" / "made").exists():
        found.append(one("ceph-osd", ["ceph-osd", "-i", "0", *conf, "--keyring", f"{lab.ceph}/osd/keyring"]))
    return found


@contextmanager
def admin(lab: Lab) -> Iterator[Any]:
    """A connection as `client.admin`. `Any`: the bindings carry no types."""
    limits = {"client_mount_timeout": str(CONNECT_S), "rados_mon_op_timeout": "20", "rados_osd_op_timeout": "20"}
    cluster = rados.Rados(conffile=str(lab.ceph / "etc" / "ceph.conf"), conf={"keyring": str(lab.ceph / "admin.keyring"), **limits})
    cluster.connect()
    try:
        yield cluster
    finally:
        cluster.shutdown()


def command(cluster: Any, prefix: str, inbuf: bytes = b"", **arguments: object) -> Any:
    """Run one monitor command. Raises RuntimeError with the monitor's refusal."""
    for _ in range(100):
        code, out, error = cluster.mon_command(json.dumps({"prefix": prefix, "format": "json", **arguments}), inbuf)
        if code == 0:
            return json.loads(out) if out.strip() else None
        if code != EAGAIN:
            break
        time.sleep(0.05)
    raise RuntimeError(f"{prefix}: {code} {error}")


def epoch(cluster: Any) -> int:
    found: int = command(cluster, "osd stat")["epoch"]
    return found


def make_osd(lab: Lab, cluster: Any) -> None:
    """Make the one OSD, if it has not been made."""
    directory = lab.ceph / "osd"
    if (directory / "made").exists():
        return
    identity = directory / "uuid"
    if not identity.exists():
        write(identity, str(uuid.uuid4()), User.CEPH)
    ring = directory / "keyring"
    if not ring.exists():
        _run("ceph-authtool", "--create-keyring", ring, "--gen-key", "-n", "osd.0")
    secret = next(line.split("=", 1)[1].strip() for line in ring.read_text().splitlines() if "key =" in line)
    command(cluster, "osd new", json.dumps({"cephx_secret": secret}).encode(), uuid=identity.read_text(), id=0)
    for left in ("block", "type", "fsid"):
        (directory / left).unlink(missing_ok=True)
    _run("ceph-osd", "-c", lab.ceph / "ceph.conf", "-i", "0", "--mkfs", "--osd-uuid", identity.read_text(), "--keyring", ring)
    write(directory / "made", "", User.CEPH)


def _has_osd(cluster: Any, after_epoch: int) -> bool:
    # After a restart the map still shows the old instance as up: only a newer `up_from` is this start's.
    return any(osd["up"] and osd["up_from"] > after_epoch for osd in command(cluster, "osd dump")["osds"])


def wait_for_osd(cluster: Any, after_epoch: int) -> None:
    wait_for("Ceph's OSD", lambda: _has_osd(cluster, after_epoch), 60)


def make_pools(cluster: Any) -> None:
    """Make the pools and write one object into each: what the region needs of its Ceph."""
    present = cluster.list_pools()
    for pool in POOLS:
        if pool not in present:
            command(cluster, "osd pool create", pool=pool, pg_num=PG_COUNT)
            command(cluster, "osd pool application enable", pool=pool, app="rbd")
    for pool in POOLS:
        with cluster.open_ioctx(pool) as io:
            io.write_full("kumo.ready", b"")
            io.remove_object("kumo.ready")
    command(cluster, "health mute", code="MGR_MODULE_ERROR", sticky=True)


def user(node: Lab) -> str:
    """Return whom the agent of a node is to Ceph."""
    return f"client.agent-{node.host}"


def hand_out_keys(lab: Lab, cluster: Any, node: Lab) -> None:
    """Give a node what its processes need to reach the cluster of `lab`: configuration, and a key for each role that it has."""
    if Role.HOST in node.roles:
        rw = ", ".join(f"profile rbd pool={pool}" for pool in POOLS)
        write(node.ceph / "etc" / "ceph.conf", _GUESTS.format(**_settings(lab)))
        _hand_out(lab, cluster, node.agent / "ceph", User.ROOT, user(node), {"mon": "allow r", "osd": rw})
    if Role.CONTROLLER in node.roles:
        fencer = f"client.fencer-{node.cell}"
        caps = {"mon": "profile rbd, allow command 'auth rm'", "osd": "profile rbd pool=volumes"}
        _hand_out(lab, cluster, node.controller / "ceph", User.CONTROLLER, fencer, caps)


def take_key(cluster: Any, node: Lab) -> None:
    """Have Ceph forget the agent of a node; fine if it knows none."""
    command(cluster, "auth rm", entity=user(node))


def _hand_out(lab: Lab, cluster: Any, directory: Path, owner: int, entity: str, caps: dict[str, str]) -> None:
    """Write `ceph.conf` and the key of `entity` into a directory of the process that will be it."""
    make_directory(directory, owner, 0o700)
    listed = [part for pair in caps.items() for part in pair]
    found = command(cluster, "auth get", entity=entity) if _exists(cluster, entity) else None
    if found is not None and found[0]["caps"] != caps:
        command(cluster, "auth caps", entity=entity, caps=listed)
    key = command(cluster, "auth get-or-create", entity=entity, caps=listed)[0]["key"]
    keyring = directory / "keyring"
    write(keyring, f"[{entity}]\n\tkey = {key}\n", owner, 0o600)
    write(directory / "ceph.conf", _CONTROL.format(**_settings(lab), keyring=keyring), owner)


def _exists(cluster: Any, entity: str) -> bool:
    return any(one["entity"] == entity for one in command(cluster, "auth ls")["auth_dump"])
